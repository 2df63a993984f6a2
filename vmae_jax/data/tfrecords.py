"""Random access into tfrecord files, which have none of their own.

The offset of every record is found once, by reading the 12-byte headers alone, and kept in memory
(8 bytes a record).
"""

import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from vmae_jax.spec import ConfigError

__all__ = ["TFRecords"]


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
