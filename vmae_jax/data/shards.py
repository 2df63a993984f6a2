"""Arrays of videos in array_record shards that are whole or absent: each record is the .npz of one video.

A shard is written aside and renamed; beside it lies the list of what it holds. So a program that
was stopped goes on after the last whole shard.
"""

import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vmae_jax.spec import ConfigError

__all__ = ["Shards", "read_shards"]

_SUFFIX = ".array_record"


_PATIENCE = 600.0  # seconds of work that a kill may cost


class Shards:
    """Writes `features-00000.array_record`, … into a local folder, at most `count` videos each.

    A shard has fewer where its videos took ten minutes.

    Attributes:
      done: names of the videos in whole shards.
    """

    def __init__(self, folder: str, count: int) -> None:
        if "://" in folder:
            raise ConfigError(f"--out={folder}: array_record files are written to a local folder; copy them from there")
        self._folder, self._count = folder, count
        self._numbers = _numbers(folder)
        self.done: set[str] = {name for number in self._numbers for name in _names(folder, number)}
        self._waiting: list[tuple[str, bytes]] = []
        self._flushed = time.monotonic()

    def has(self, name: str) -> bool:
        """Whether a whole shard holds the video."""
        return name in self.done

    def add(self, name: str, arrays: Mapping[str, Any]) -> list[str]:
        """Takes a video; gives the files that are whole now."""
        content = io.BytesIO()
        np.savez(content, name=np.asarray(name), **arrays)
        self._waiting.append((name, content.getvalue()))
        late = time.monotonic() - self._flushed > _PATIENCE
        return self.flush() if late or len(self._waiting) >= self._count else []

    def flush(self) -> list[str]:
        """Writes what waits as a shard, if anything does."""
        if not self._waiting:
            return []
        from array_record.python.array_record_module import ArrayRecordWriter

        number = max(self._numbers, default=-1) + 1
        final = _path(self._folder, number)
        aside = f"{final}.{os.getpid()}.tmp"
        writer = ArrayRecordWriter(aside, "group_size:1")
        for _, content in self._waiting:
            writer.write(content)
        writer.close()
        os.replace(aside, final)
        listed = f"{final}.json"
        with open(f"{listed}.tmp", "w") as file:  # the list comes last: it says that the shard is whole
            json.dump([name for name, _ in self._waiting], file, ensure_ascii=False)
        os.replace(f"{listed}.tmp", listed)
        self._numbers.append(number)
        self.done |= {name for name, _ in self._waiting}
        self._waiting, self._flushed = [], time.monotonic()
        return [final]


def read_shards(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every video of `vmae features --format=array_record`: its name, and "features", "frames", "seconds"."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    for number in _numbers(folder):
        with ArrayRecordDataSource(_path(folder, number)) as records:
            for index in range(len(records)):
                with np.load(io.BytesIO(records[index])) as arrays:
                    found = {name: arrays[name] for name in arrays.files}
                yield str(found.pop("name")), found


def _path(folder: str, number: int) -> str:
    return os.path.join(folder, f"features-{number:05d}{_SUFFIX}")


def _numbers(folder: str) -> list[int]:
    """The numbers of whole shards, ascending."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    ends = f"{_SUFFIX}.json"
    return sorted(int(n[9 : -len(ends)]) for n in names if n.startswith("features-") and n.endswith(ends))


def _names(folder: str, number: int) -> list[str]:
    with open(f"{_path(folder, number)}.json") as file:
        return json.load(file)
