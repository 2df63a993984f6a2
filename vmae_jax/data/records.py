"""Sources of records: prepared TFDS datasets, read one record at a time by number.

array_record has random access built in; `tfrecords` gives it to tfrecord.
"""

import contextlib
import glob
import hashlib
import importlib
import importlib.util
import io
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from vmae_jax.data.missing import Missing, check_missing
from vmae_jax.data.prepare.record import FIELDS, stored_sides
from vmae_jax.data.prepared_files import check_prepared
from vmae_jax.data.source import Stored
from vmae_jax.data.tf import tensorflow, tensorflow_datasets
from vmae_jax.data.tfrecords import TFRecords
from vmae_jax.data.video import BadVideo, Encoded
from vmae_jax.names import as_text, plain
from vmae_jax.spec import ConfigError

__all__ = ["Records", "cache_folder", "calm", "from_directory", "open_tfds"]

log = logging.getLogger(__name__)

_BUILDERS = "vmae_jax.data.builders"


class Records:
    """A source of TFDS records (see `sources.Source`)."""

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
    """The records of `sources.tfds`, made first where that was asked for.

    Raises:
      ConfigError: no such dataset, split or feature, or it is not prepared.
    """
    info = _builder_of(source).info
    try:
        split = info.splits[source.split]
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"data source: {info.full_name} has no split {source.split!r}; it has {', '.join(info.splits) or 'none'}"
        ) from error
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
        kinds=_kinds(info, label),
        pictures=isinstance(info.features[video], (kinds := tensorflow_datasets().features).Sequence | kinds.Image),
        record_bytes=split.num_bytes // max(1, split.num_examples),
        files=[os.fspath(instruction.filename) for instruction in split.file_instructions],
        fingerprint=_fingerprint(source.directory) if source.directory else "",
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


def _fingerprint(directory: str) -> str:
    """A digest of what `vmae data prepare` wrote about the records; "" where others made them."""
    files = sorted((epath.Path(os.path.expanduser(directory)) / "prepared").glob("*.json"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() if files else ""


def label_kinds(source: Stored) -> dict[str, str]:
    """The labels of a TFDS dataset as `prepare` stores them: "class", "classes" or "numbers", by name."""
    return _kinds(_builder_of(source).info, source.features[1])


def _kinds(info: Any, label: str) -> dict[str, str]:
    found = ((name, _kind(feature, is_label=name == label)) for name, feature in info.features.items())
    return {"label" if name == label else name: kind for name, kind in found if kind}


def _kind(feature: Any, *, is_label: bool) -> str | None:
    if _names(feature) or is_label:
        if not getattr(feature, "shape", None):
            return "class"
        return "classes" if feature.tf_dtype.is_integer else "numbers"
    return None


def _names(feature: Any) -> tuple[str, ...]:
    """The classes' names of a ClassLabel, or of a sequence of them."""
    return tuple(getattr(getattr(feature, "feature", feature), "names", None) or ())


def _builder_of(source: Stored) -> Any:
    return from_directory(source.directory) if source.directory else _from_name(source)


def cache_folder() -> str:
    """Where prepared datasets are kept when a config names no place."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "vmae_jax", "datasets")


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
    assert source.name is not None
    data_dir = os.path.expanduser(source.data_dir) if source.data_dir else cache_folder()
    builder = _builder(source.name, source.config, data_dir)
    with calm():
        ready = builder.is_prepared()
    if not ready:
        if not source.prepare:
            raise ConfigError(f"data source: {source.name!r} is not prepared in {data_dir!r}; set prepare=True")
        _prepare(builder)
        builder = _builder(source.name, source.config, data_dir)
    return builder


def _builder(name: str, config: Any, data_dir: str) -> Any:
    tfds = tensorflow_datasets()
    module = f"{_BUILDERS}.{name}"
    if name.isidentifier() and importlib.util.find_spec(module):
        own = importlib.import_module(module)
        made = own.builder_config(config) if config is not None else None
        with calm():
            return own.builder()(config=made, data_dir=data_dir, file_format="array_record")
    for levels in ("", "*/", "*/*/"):  # TFDS reads what is there already, NAME/CONFIG/VERSION
        for file in epath.Path(data_dir).glob(f"{glob.escape(name)}/{levels}features.json"):
            check_prepared(os.fspath(file.parent))
    try:
        with calm():
            return tfds.builder(name, config=config, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        ours = sorted(name for name in _own_builders() if not name.startswith("_"))
        raise ConfigError(
            f"data source: neither vmae_jax ({', '.join(ours)}) nor TFDS has a dataset {name!r}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"data source: {name!r}: {_first_line(error)}") from error


def _own_builders() -> list[str]:
    import pkgutil

    return [found.name for found in pkgutil.iter_modules(importlib.import_module(_BUILDERS).__path__)]


def _prepare(builder: Any) -> None:
    """Makes the dataset in a folder aside, which TFDS renames when it is whole.

    A kill half way leaves nothing that is taken for a dataset. Where several processes make it at
    once, the first to finish wins and the others use its.
    """
    log.info("preparing %s in %s (once)", builder.info.full_name, builder.data_dir)
    _sweep(os.path.dirname(builder.data_dir))
    tensorflow_datasets().disable_progress_bar()
    try:
        with calm(), contextlib.redirect_stdout(io.StringIO()):  # standard output is the command's
            builder.download_and_prepare()
    except OSError as error:
        if not builder.is_prepared():
            raise ConfigError(
                f"data source: {builder.info.full_name} cannot be prepared: {_first_line(error)}"
            ) from error


def _sweep(folder: str) -> None:
    """Removes what preparations that were killed left, once it is a day old."""
    for left in glob.glob(os.path.join(glob.escape(folder), "incomplete.*")):
        if time.time() - os.path.getmtime(left) > 24 * 3600:
            shutil.rmtree(left, ignore_errors=True)  # another process may be sweeping too


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Without TFDS's warnings about what is meant (a config of our own, files made here)."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
