"""Arrays of videos in array_record files that are complete or absent; each record is the .npz of one video.

The digest of its name determines the file of a video, and files are sorted by name, so they do not depend on
interruptions or on the number of machines. A file is written under another name and renamed, together with a list of
its records. A file that is not complete yet is rewritten with the added records.
"""

import hashlib
import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vmae_jax.spec import ConfigError

__all__ = ["Shards", "digest", "read_shards"]

_SUFFIX = ".array_record"
_PATIENCE = 600.0  # maximum seconds of work that a kill may cost


def digest(name: str) -> int:
    """Return a number that depends only on the name, by which videos are distributed."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8], "big")


class Shards:
    """Writes `features-00000-of-00004.array_record`, … into a local folder.

    A file is written when a video of another file is added, after ten minutes, or by `flush`, so add videos in the
    order of `unit`.

    Args:
      folder: local; several processes may write different files of it.
      files: their number.
    """

    def __init__(self, folder: str, files: int) -> None:
        if "://" in folder:
            raise ConfigError(f"--out={folder}: array_record files are written to a local folder; copy them from there")
        self._folder, self._files = folder, files
        self._done = {name for path in _whole(folder) for name in _names(path)}
        self._waiting: dict[str, bytes] = {}
        self._flushed = time.monotonic()

    def unit(self, name: str) -> int:
        """Return the number of the video's file, which one process writes."""
        return digest(name) % self._files

    def has(self, name: str) -> bool:
        """Whether a complete file has the video."""
        return name in self._done

    def add(self, name: str, arrays: Mapping[str, Any]) -> list[str]:
        """Add a video; return the files that were written."""
        written = []
        if self._waiting and self.unit(name) != self.unit(next(iter(self._waiting))):
            written = self.flush()
        content = io.BytesIO()
        np.savez(content, name=np.asarray(name), **arrays)
        self._waiting[name] = content.getvalue()
        return written + (self.flush() if time.monotonic() - self._flushed > _PATIENCE else [])

    def flush(self) -> list[str]:
        """Write pending videos."""
        if not self._waiting:
            return []
        from array_record.python.array_record_module import ArrayRecordWriter

        unit = self.unit(next(iter(self._waiting)))
        final = os.path.join(self._folder, f"features-{unit:05d}-of-{self._files:05d}{_SUFFIX}")
        records = dict(sorted(({name: content for name, _, content in _records(final)} | self._waiting).items()))
        aside = f"{final}.{os.getpid()}.tmp"
        writer = ArrayRecordWriter(aside, "group_size:1")
        for content in records.values():
            writer.write(content)
        writer.close()
        os.replace(aside, final)
        listed = f"{final}.json"
        with open(f"{listed}.tmp", "w") as file:  # written last: the file is complete
            json.dump(list(records), file)
        os.replace(f"{listed}.tmp", listed)
        self._done |= set(records)
        self._waiting, self._flushed = {}, time.monotonic()
        return [final]


def read_shards(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the arrays of every video of `vmae features --format=array_record`."""
    for path in _whole(folder):
        for name, arrays, _ in _records(path):
            yield name, arrays


def _records(path: str) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """Yield the records of a file as name, arrays, bytes; a file without a list is incomplete and has none."""
    if not os.path.exists(f"{path}.json"):
        return
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    with ArrayRecordDataSource(path) as records:
        for index in range(len(records)):
            content = records[index]
            with np.load(io.BytesIO(content)) as arrays:
                found = {name: arrays[name] for name in arrays.files}
            yield str(found.pop("name")), found, content


def _whole(folder: str) -> list[str]:
    """Return the complete files of a folder, in order."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    ends = f"{_SUFFIX}.json"
    found = sorted(name for name in names if name.startswith("features-") and name.endswith(ends))
    return [os.path.join(folder, name.removesuffix(".json")) for name in found]


def _names(path: str) -> list[str]:
    with open(f"{path}.json") as file:
        return json.load(file)
