"""Sources of records: folders that `vmae data prepare` or TFDS made, read one record at a time by number.

array_record has random access built in; `prepared_files.TFRecords` gives it to tfrecord.
"""

import contextlib
import glob
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from vmae_jax.data.faults import Missing, check_missing
from vmae_jax.data.prepare.record import FIELDS, stored_sides
from vmae_jax.data.prepared_files import TFRecords, check_prepared
from vmae_jax.data.source import Stored
from vmae_jax.data.tf import tensorflow, tensorflow_datasets
from vmae_jax.data.video import BadVideo, Encoded
from vmae_jax.names import as_text, plain
from vmae_jax.spec import ConfigError

__all__ = ["Records", "calm", "from_directory", "is_prepared", "open_prepared", "open_tfds"]

_HELD_OUT = ("validation", "val", "test")


class Records:
    """A source of TFDS records (see `source.Source`)."""

    def __init__(
        self,
        records: Any,
        *,
        features: tuple[str, str, str],
        label_names: Mapping[str, tuple[str, ...]],
        name: str,
        kinds: Mapping[str, str] | None = None,
        pictures: bool = False,
        record_bytes: int = 0,
        files: Sequence[str] = (),
        fingerprint: str = "",
        missing: Missing | None = None,
    ) -> None:
        self.label_names = label_names
        self.record_bytes = record_bytes
        self.fingerprint = fingerprint
        self.missing = missing
        self._files = files
        self._kinds = kinds or {}
        self._pictures = pictures
        self._records = records
        self._video, self._label, self._key = features
        self._name = name

    def __len__(self) -> int:
        return len(self._records)

    def files(self) -> Sequence[str]:
        """The shards."""
        return self._files

    def fetch(self, index: int) -> Encoded:
        """The example: an encoded video, or the still pictures of `tfds.features.Video`."""
        from google.protobuf.message import DecodeError

        try:
            fields = tensorflow().train.Example.FromString(self._records[index]).features.feature
        except (OSError, RuntimeError, ValueError, DecodeError) as error:  # a shard that is damaged or gone
            kind = "missing" if "No such file" in str(error) else "broken"
            raise BadVideo(f"record {index} of {self._name} cannot be read: {_first_line(error)}", kind) from error
        videos: tuple[bytes, ...] = (*fields[self._video].bytes_list.value,)
        if not videos:
            raise BadVideo(f"record {index} of {self._name} has no {self._video!r}")
        labels, sides = dict(self._labels(fields)), stored_sides(fields, but=(self._video, self._key))
        named = fields[self._key].bytes_list.value if self._key in fields else ()
        key = plain(os.fsdecode(named[0])) if named else str(index)
        if self._pictures or len(videos) > 1:
            rate = fields["rate"].float_list.value[0] if "rate" in fields else None
            return Encoded(frames=videos, rate=rate, labels=labels, sides=sides, key=f"{self._name}/{key}")
        return Encoded(data=b"".join(videos), labels=labels, sides=sides, key=f"{self._name}/{key}")

    def _labels(self, fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Every feature of numbers, but what describes the video, and classes that are unknown (-1)."""
        for field in sorted(set(fields) - set(FIELDS)):
            value = _numbers(fields[field])
            name = "label" if field == self._label else field
            if value is not None and not (self._kinds.get(name) == "class" and isinstance(value, int) and value < 0):
                yield name, value


def _numbers(feature: Any) -> Any:
    """A feature's value as `data.labels` has it: a whole number, or several; None of what holds bytes."""
    kind = feature.WhichOneof("kind")
    if kind == "int64_list":
        values = tuple(feature.int64_list.value)
        return values[0] if len(values) == 1 else values
    return tuple(feature.float_list.value) if kind == "float_list" else None


def open_tfds(source: Stored) -> Records:
    """Return the records of `sources.tfds`.

    Raises:
      ConfigError: if there is no such dataset, split or feature, the split is empty, or it is not prepared.
    """
    info = _builder_of(source).info
    try:
        split = info.splits[source.split]
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"data source: {info.full_name} has no split {source.split!r}; it has {', '.join(info.splits) or 'none'}"
        ) from error
    if not split.num_examples:
        raise ConfigError(f"data source: {info.full_name} has no examples in its split {source.split!r}")
    video, label, _ = source.features
    if video not in info.features:
        raise ConfigError(
            f"data source: {info.full_name} has no feature {video!r}; it has {', '.join(info.features)} (set video=)"
        )
    names = {"label" if name == label else name: _names(feature) for name, feature in info.features.items()}
    names = {name: known for name, known in names.items() if known}
    return Records(
        _random_access(split, info),
        features=source.features,
        label_names=names,
        name=info.name,
        kinds=_kinds(info, source.features),
        pictures=isinstance(info.features[video], (kinds := tensorflow_datasets().features).Sequence | kinds.Image),
        record_bytes=split.num_bytes // max(1, split.num_examples),
        files=[os.fspath(instruction.filename) for instruction in split.file_instructions],
        fingerprint=_fingerprint(source.directory, source.split) if source.directory else "",
        missing=_missing(split, info),
    )


def _missing(split: Any, info: Any) -> Missing | None:
    """The records whose shards are not there."""
    local = [one for one in split.file_instructions if "://" not in os.fspath(one.filename)]
    absent = [one for one in local if not os.path.exists(one.filename)]
    if not absent:
        return None
    names = tuple(as_text(os.path.basename(one.filename)) for one in absent[:3])
    count, every = sum(map(_taken, absent)), split.num_examples
    return Missing(f"{info.full_name} ({len(absent)} of its {len(local)} shards)", count, every, every, names)


def _fingerprint(directory: str, split: str) -> str:
    """A digest of what `vmae data prepare` wrote about the records of a split; "" where others made them."""
    folder = epath.Path(os.path.expanduser(directory)) / "prepared"
    files = [folder / f"{name}.json" for name in sorted(set(re.findall(r"[A-Za-z]\w*", split)))]
    written = [file.read_bytes() for file in files if file.exists()]
    return hashlib.sha256(b"".join(written)).hexdigest() if written else ""


def label_kinds(source: Stored) -> dict[str, str]:
    """Return the labels and sides of a TFDS dataset as `prepare` stores them (see `record.LabelKind`), by name."""
    return _kinds(_builder_of(source).info, source.features)


def _kinds(info: Any, names: tuple[str, str, str]) -> dict[str, str]:
    video, label, key = names
    described = {*FIELDS, video, key} - {"audio"}
    found = {
        "label" if name == label else name: _kind(feature, is_label=name == label)
        for name, feature in info.features.items()
        if name not in described
    }
    return {name: kind for name, kind in found.items() if kind}


def _kind(feature: Any, *, is_label: bool) -> str | None:
    if _names(feature) or is_label:
        if not getattr(feature, "shape", None):
            return "class"
        return "classes" if feature.tf_dtype.is_integer else "numbers"
    if isinstance(feature, tensorflow_datasets().features.Text):
        return "text"
    stored = feature.get_serialized_info()
    is_bytes = getattr(stored, "shape", None) == () and stored.tf_dtype == tensorflow().string
    return "side" if is_bytes else None


def _names(feature: Any) -> tuple[str, ...]:
    """The classes' names of a ClassLabel, or of a sequence of them."""
    return tuple(getattr(getattr(feature, "feature", feature), "names", None) or ())


def _builder_of(source: Stored) -> Any:
    return from_directory(source.directory) if source.directory else _from_name(source)


def _random_access(split: Any, info: Any) -> Any:
    instructions = split.file_instructions
    kind = info.file_format.value if info.file_format else "tfrecord"
    if kind == "array_record":
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource(instructions)
    if kind == "tfrecord":
        check_missing(_missing(split, info), limit=0.0)  # what is in a shard is found by reading it
        return TFRecords([(os.fspath(i.filename), i.skip, _taken(i)) for i in instructions])
    raise ConfigError(
        f"data source: {info.full_name} is stored as {kind}, which has no random access; prepare it as array_record"
    )


def _taken(instruction: Any) -> int:
    return instruction.take if instruction.take != -1 else instruction.examples_in_shard - instruction.skip


def from_directory(directory: str) -> Any:
    """The TFDS builder of a prepared folder.

    Raises:
      ConfigError: if the folder holds no prepared dataset, or one that `check_prepared` refuses.
    """
    check_prepared(directory)
    tfds = tensorflow_datasets()
    path = os.path.expanduser(directory)
    try:
        return tfds.builder_from_directory(path)
    except Exception as error:  # TFDS raises whatever its file system or its parser raised
        raise ConfigError(
            f"data source: {directory!r} holds no prepared TFDS dataset (dataset_info.json and its records): "
            f"{_first_line(error)}"
        ) from error


def _from_name(source: Stored) -> Any:
    """Return the builder of a dataset that TFDS has prepared under its name."""
    assert source.name is not None
    tfds = tensorflow_datasets()
    folder = os.path.expanduser(source.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    for levels in ("", "*/", "*/*/"):  # TFDS reads what is there already, NAME/CONFIG/VERSION
        for file in epath.Path(folder).glob(f"{glob.escape(source.name)}/{levels}features.json"):
            check_prepared(os.fspath(file.parent))
    try:
        with calm():
            builder = tfds.builder(source.name, data_dir=folder)
            ready = builder.is_prepared()
    except tfds.core.DatasetNotFoundError as error:
        raise ConfigError(f"data source: TFDS has no dataset {source.name!r}") from error
    except ValueError as error:
        raise ConfigError(f"data source: {source.name!r}: {_first_line(error)}") from error
    if not ready:
        raise ConfigError(
            f"data source: {source.name!r} is not prepared in {folder!r}; prepare it with TFDS, or name its folder "
            "with data_dir="
        )
    return builder


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Silence TFDS's warnings about folders that it did not write itself."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def is_prepared(path: str) -> bool:
    """True for a folder with a dataset's metadata."""
    return (epath.Path(os.path.expanduser(path)) / "dataset_info.json").exists()


def open_prepared(path: str, *, part: str = "all", share: float = 0.1, names: str | None = None) -> Any:
    """Return the records of a prepared folder where a folder of videos is named; see `sources.folder`.

    Where there is a split "validation" (or "test"), it is what is held out; otherwise the first `share` of the
    records is, whose order means nothing.

    Raises:
      ConfigError: if names of classes are given, which the records have themselves.
    """
    if names is not None:
        raise ConfigError(f"data source: {path!r} is prepared and has its classes' names itself; leave names= out")
    splits = from_directory(path).info.splits
    training = "train" if "train" in splits else next(iter(splits))
    held_out = next((split for split in _HELD_OUT if split in splits and split != training), None)
    chosen = training
    if part == "held_out" and held_out:
        chosen = held_out
    elif part != "all" and not held_out:
        count = splits[training].num_examples
        if count < 2:
            raise ConfigError(f"data source: one record cannot be split into training and held-out ones, in {path!r}")
        cut = max(1, round(share * count))
        chosen = f"{training}[:{cut}]" if part == "held_out" else f"{training}[{cut}:]"
    return open_tfds(Stored(None, path, chosen))
