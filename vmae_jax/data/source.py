"""What every source of videos is, open or not; what `smoke` reads in its place; and what hosts compare of it.

Hosts compare digests of the names, labels, sizes and contents of their videos before they train together.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from ml_collections import ConfigDict

from vmae_jax.data.video import Encoded
from vmae_jax.spec import call

__all__ = ["Opener", "Source", "Stored", "drawn_clips", "drawn_states", "facts_of"]

SIZES = 10_000  # files whose sizes are compared, evenly spaced
CONTENTS = 64  # files of which the beginning and the end are compared
_BYTES = 64 << 10
_THREADS = 32


class Source(Protocol):
    """Videos by number. `label_names` holds, by label, the names of its classes in order, where they have names."""

    label_names: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int: ...

    def fetch(self, index: int) -> Encoded:
        """The encoded example, not decoded. Raises BadVideo when it cannot be fetched."""
        ...


class Opener(Protocol):
    """What a config holds: a source that is not open yet."""

    def open(self) -> Source: ...


@dataclasses.dataclass(frozen=True)
class Stored:
    """Records that TFDS opens; the attributes are the arguments of `sources.tfds`, `features` the last three."""

    name: str | None
    directory: str | None
    split: str
    data_dir: str | None = None
    features: tuple[str, str, str] = ("video", "label", "key")


def drawn_clips(arguments: Mapping[str, Any] | None = None) -> ConfigDict:
    """Return the call of the source that replaces any other at `smoke` size; `arguments` are those of the other."""
    del arguments
    settings = call("data.synthetic.moving_shapes.settings", train=16, validation=8, test=8, size=48, frames=16)
    return call("data.synthetic.moving_shapes", settings=settings)


def drawn_states() -> ConfigDict:
    """Return the call of the source that replaces one of features at `smoke` size; a frame's vector has 7 numbers."""
    settings = call("data.synthetic.world.settings", train=16, validation=8, test=8, size=16, frames=16, shapes=2)
    return call("data.synthetic.world", settings=settings)


def record_bytes(source: Source) -> int:
    """The mean size of the examples that pass through this process; 0 of files that only the decoders open."""
    return getattr(source, "record_bytes", 0)


def facts_of(source: Source, of: str = "") -> dict[str, Any]:
    """Return how many videos a source has, and digests of their names, labels, sizes and contents.

    Names and labels are compared in full. Sizes are those of up to 10,000 files, and contents the first and last
    64 KiB of up to 64 files, so that it takes seconds on a network disk as well. Of records the files are the
    shards, with how many records each has. Files in a bucket are compared by name. Of what is beside the videos, tables
    are compared in full, and files by the sizes of those of up to 256 videos.

    Args:
      source: opened.
      of: words before each fact, such as "evaluation ".
    """
    files = _local_files(source)
    return {
        f"{of}videos": len(source),
        f"names of the {of}videos": _digest(_names(source)),
        f"labels of the {of}videos": _digest(_labels(source)),
        f"sizes of the {of}videos": _digest(map(str, _in_threads(_size, _spread(files, SIZES)))),
        f"contents of the {of}videos": _digest(_in_threads(_ends, _spread(files, CONTENTS))),
        f"files and tables beside the {of}videos": _digest(_beside(source)),
    }


def _local_files(source: Any) -> Sequence[str]:
    """The local files that hold the videos, in the order of the source."""
    return [file for part in _parts(source) for file in (part.files() if hasattr(part, "files") else ())]


def _parts(source: Any) -> list[Any]:
    """The sources that a mixture, or a source with something beside its videos, is made of; or the one source."""
    inner = getattr(source, "sources", None)
    return [source] if inner is None else [part for one in inner for part in _parts(one)]


def _beside(source: Any) -> Iterator[str]:
    """What is beside the videos (`sides.Sided.facts`), of all parts."""
    if hasattr(source, "facts"):
        yield from source.facts()
    for inner in getattr(source, "sources", ()):
        yield from _beside(inner)


def _names(source: Any) -> Iterator[str]:
    """The names of the videos; of records, the names of their shards and what the preparation wrote of itself."""
    for part in _parts(source):
        if hasattr(part, "key"):
            yield from (part.key(index) for index in range(len(part)))
        else:
            yield from map(os.path.basename, _local_files(part))
            yield getattr(part, "fingerprint", "")


def _labels(source: Any) -> Iterator[str]:
    yield json.dumps({name: list(names) for name, names in sorted(source.label_names.items())})
    for part in _parts(source):
        if hasattr(part, "labels"):
            yield from (json.dumps(dict(part.labels(index)), sort_keys=True) for index in range(len(part)))


def _spread(files: Sequence[str], count: int) -> list[str]:
    return [files[i * len(files) // count] for i in range(count)] if len(files) > count else list(files)


def _in_threads(function: Any, files: Sequence[str]) -> list[Any]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, files))


def _size(path: str) -> int:
    """The bytes of a file; -1 where it is not there."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _ends(path: str) -> str:
    """A digest of the beginning and the end of a file; "" where it cannot be read."""
    try:
        with open(path, "rb") as file:
            first = file.read(_BYTES)
            file.seek(max(os.fstat(file.fileno()).st_size - _BYTES, 0))
            return hashlib.sha256(first + file.read(_BYTES)).hexdigest()
    except OSError:
        return ""


def _digest(texts: Iterable[str]) -> str:
    found = hashlib.sha256()
    for text in texts:
        found.update(text.encode() + b"\0")
    return found.hexdigest()[:12]
