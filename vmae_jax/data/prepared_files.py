"""The files of a prepared folder. Its metadata is checked before TFDS reads it: a stranger may have written it.

`features.json` names Python classes, which TFDS imports: only those that `vmae data prepare` writes and `Video` are
accepted. Names of splits, files and features stay in the folder, and sizes are bounded.

Files of tfrecord have no random access of their own: `TFRecords` finds the offset of every record once, by reading the
12-byte headers alone, and keeps it in memory (8 bytes a record).
"""

import json
import os
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from vmae_jax.spec import ConfigError

__all__ = ["TFRecords", "bounded_json", "check_prepared"]

_FEATURES = "tensorflow_datasets.core.features."
_CLASSES = {
    _FEATURES + name
    for name in (
        "features_dict.FeaturesDict",
        "tensor_feature.Tensor",
        "scalar.Scalar",
        "text_feature.Text",
        "class_label_feature.ClassLabel",
        "sequence_feature.Sequence",
        "image_feature.Image",
        "video_feature.Video",
    )
}
_SMALL, _LARGE = 4 << 20, 256 << 20  # bytes of features.json, and of any other file of metadata
_MOST = 1_000_000  # classes, and shards of a split
_NAME = re.compile(r"\w[\w.-]*")


def check_prepared(directory: str) -> None:
    """Check dataset_info.json, features.json and the sizes of the other metadata of a folder.

    Raises:
      ConfigError: if they are missing or malformed, name a class that is not written here, or lead out of the folder.
    """
    folder = epath.Path(os.path.expanduser(directory))
    try:
        _check_features(bounded_json(folder / "features.json", _SMALL))
        _check_info(bounded_json(folder / "dataset_info.json", _LARGE))
        for file in (*folder.glob("*.txt"), *folder.glob("*.json")):
            _check_size(file, _LARGE)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"data source: {directory!r} holds no prepared TFDS dataset (dataset_info.json and its records) that "
            f"vmae data prepare wrote: {reason}"
        ) from error


def bounded_json(file: epath.Path, most: int = _LARGE) -> Any:
    """Return the JSON of a file of metadata.

    Raises:
      ValueError: if it is larger than `most` bytes, or no JSON.
      OSError: if it cannot be read.
    """
    _check_size(file, most)
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file.name} is no JSON ({error})") from error


def _check_size(file: epath.Path, most: int) -> None:
    if file.stat().length > most:
        raise ValueError(f"{file.name} has more than {most >> 20} MiB")


def _check_features(value: Any) -> None:
    if not isinstance(value, dict) or "type" in value:
        raise ValueError("features.json is of TFDS before 4.5, or is none")
    for key, content in _items(value):
        if key == "pythonClassName" and content not in _CLASSES:
            raise ValueError(
                f"features.json names the class {str(content)[:100]!r}; accepted are "
                f"{', '.join(sorted(name.rpartition('.')[2] for name in _CLASSES))} of TFDS"
            )
        if key == "features":
            for name in content:
                _check_name(name, "feature")
        if key == "numClasses":
            _check_count(content, "classes")
    if value.get("pythonClassName", value.get("python_class_name")) != _FEATURES + "features_dict.FeaturesDict":
        raise ValueError("features.json holds no FeaturesDict")


def _check_info(value: Any) -> None:
    info = {_camel(key): content for key, content in value.items()}
    _check_name(info.get("name"), "dataset")
    for split in info.get("splits", ()):
        found = {_camel(key): content for key, content in split.items()}
        _check_name(found.get("name"), "split")
        template = found.get("filepathTemplate", "")
        if not isinstance(template, str) or re.search(r"[/\\\0]", template) or os.pardir in template:
            raise ValueError(f"dataset_info.json: the files {template!r} of a split lead out of the folder")
        lengths = found.get("shardLengths", ())
        _check_count(len(lengths), "shards of a split")
        if any(not 0 <= int(length) < 1 << 40 for length in lengths):
            raise ValueError("dataset_info.json: a shard of no possible length")


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value at any depth; keys as JSON spells them (protocol buffers also read snake_case)."""
    if isinstance(value, dict):
        for key, content in value.items():
            yield _camel(key), content
            yield from _items(content)
    elif isinstance(value, list):
        for content in value:
            yield from _items(content)


def _camel(key: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), key)


def _check_name(name: Any, what: str) -> None:
    if not isinstance(name, str) or len(name) > 200 or os.pardir in name or not _NAME.fullmatch(name):
        raise ValueError(f"the name {str(name)[:100]!r} of a {what} is not made of letters, digits and _")


def _check_count(count: Any, what: str) -> None:
    if not 0 <= int(count) <= _MOST:
        raise ValueError(f"{count} {what}: at most {_MOST:,}")


class TFRecords(Sequence[bytes]):
    """Random access into tfrecord shards.

    Args:
      shards: (file, records to skip, records to take) of each shard, in order.

    Raises:
      ConfigError: a file that ends within a record.
    """

    def __init__(self, shards: Sequence[tuple[str, int, int]]) -> None:
        self._offsets = [_record_offsets(path)[skip : skip + take] for path, skip, take in shards]
        self._starts = np.cumsum([0, *(len(offsets) for offsets in self._offsets)])
        self._paths = [path for path, _, _ in shards]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: Any) -> bytes:
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        offset = int(self._offsets[shard][index - self._starts[shard]])
        with open(self._paths[shard], "rb") as file:
            file.seek(offset)
            (size,) = struct.unpack("<Q", file.read(12)[:8])
            return file.read(size)


def _record_offsets(path: str) -> np.ndarray:
    """Where each record of a tfrecord file starts: length (8), checksum (4), data, checksum (4)."""
    offsets, position, size = [], 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(12)
            step = 16 + struct.unpack("<Q", header[:8])[0] if len(header) == 12 else size
            if position + step > size:
                raise ConfigError(f"data source: {path} ends within a record: it was not written completely")
            offsets.append(position)
            position += step
    return np.array(offsets, np.int64)
