"""Host batches as global arrays on the devices, ahead of the training: the only read-ahead.

The rows that a host reads depend only on the sharding of the batch, not on the number of the process: the rows of
a process need not be consecutive, and processes may share rows.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from vmae_jax.types import Batch

__all__ = ["HostBatches", "Prefetch", "host_rows", "prefetch_to_device", "to_device"]

B = TypeVar("B")


class HostBatches(Protocol):
    """A stream of batches, as an opened loader gives them."""

    @property
    def position(self) -> int:
        """Of the next batch, in videos: what a checkpoint keeps."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...
    def __next__(self) -> Batch: ...

    def faults(self, before: int | None = None) -> Sequence[Any]:
        """Return the videos that could not be read, each once: of positions below `before`, or of all so far."""
        ...

    def close(self) -> None:
        """End what reads; a thread that waits for a batch gets an error."""
        ...


def host_rows(sharding: Sharding, clips: int) -> list[int]:
    """Return the rows, ascending, of a global batch of `clips` that this process's devices hold.

    Raises:
      ValueError: if `clips` does not divide over the devices.
    """
    try:
        slices = _rows_only(sharding).addressable_devices_indices_map((clips,)).values()
    except ValueError as error:
        raise ValueError(f"a batch of {clips} clips does not divide over the devices of {sharding}") from error
    return sorted({row for index in slices if index is not None for row in range(clips)[index[0]]})


def to_device(batch: Mapping[str, np.ndarray], sharding: Sharding, clips: int) -> dict[str, jax.Array]:
    """Return global arrays [clips …], to which this process contributes its rows.

    Args:
      batch: arrays whose rows are those of `host_rows(sharding, clips)`, in that order.
      sharding: of the first dimension; the other dimensions are not split.
      clips: rows of the global batch.
    """
    rows = host_rows(sharding, clips)
    place = {row: local for local, row in enumerate(rows)}
    sharding = _rows_only(sharding)

    def put(name: str, array: np.ndarray) -> jax.Array:
        if len(array) != len(rows):
            raise ValueError(f"batch[{name!r}] has {len(array)} rows; this process's devices hold {len(rows)}")

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            first, last = range(clips)[index[0]][0], range(clips)[index[0]][-1]
            return array[place[first] : place[last] + 1]

        return jax.make_array_from_callback((clips, *array.shape[1:]), sharding, part)

    return {name: put(name, array) for name, array in batch.items()}


def prefetch_to_device(
    batches: HostBatches,
    sharding: Sharding,
    *,
    clips: int,
    depth: int = 2,
    check: Callable[[Batch], None] | None = None,
    waiting: Callable[[int], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> "Prefetch[dict[str, Any]]":
    """Put batches on the devices `depth` ahead, in a thread.

    Args:
      batches: from `Opened.batches` or `once`, reading the rows of `host_rows(sharding, clips)`.
      sharding: of the first dimension.
      clips: rows of the global batch.
      depth: batches that wait on the devices, in device memory.
      check: a method's own; it is passed each batch on the host, and may raise.
      waiting: (number of the batch, from 0) -> a context around the wait for it.
    """

    def put(batch: Batch) -> dict[str, Any]:
        if check is not None:
            check(batch)
        return to_device(batch, sharding, clips)

    return Prefetch(batches, put, depth=depth, waiting=waiting)


class Prefetch(Iterator[B], Generic[B]):
    """An iterator that reads ahead in a thread; an error there is raised here in place of its batch.

    Attributes:
      position: of the next batch, in videos, which a checkpoint records.
      wait_seconds: total time that the consumer has waited for batches.
    """

    def __init__(
        self,
        batches: HostBatches,
        put: Callable[[Batch], B],
        *,
        depth: int,
        waiting: Callable[[int], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self._batches = batches
        self._put = put
        self._waiting, self._taken = waiting, 0
        self._ready: queue.Queue[tuple[Any, int, BaseException | None]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._ended: BaseException | None = None
        self.position: int = batches.position
        self.wait_seconds = 0.0
        self._thread = threading.Thread(target=self._work, name="prefetch_to_device", daemon=True)
        self._thread.start()

    def __next__(self) -> B:
        if self._ended is not None:
            raise self._ended
        start = time.perf_counter()
        with self._waiting(self._taken):
            batch, position, error = self._ready.get()
        self._taken += 1
        self.wait_seconds += time.perf_counter() - start
        if error is not None:
            self._ended = error
            raise error
        self.position = position
        return batch

    def faults(self, before: int | None = None) -> Sequence[Any]:
        """Return the videos of the batches taken so far that could not be read, each once; after an error, of all."""
        return self._batches.faults(self.position if before is None and self._ended is None else before)

    def close(self) -> None:
        """End the thread and close the batches that it reads."""
        self._stop.set()
        self._ended = self._ended or RuntimeError("this prefetch is closed")
        self._batches.close()  # wakes a thread that waits for a batch
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()  # wakes a thread that waits for room
            except queue.Empty:
                self._thread.join(0.01)

    def __enter__(self) -> "Prefetch[B]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                batch = self._put(next(self._batches))
                item = (batch, self._batches.position, None)
            except BaseException as error:  # StopIteration and all others belong to the consumer
                item = (None, 0, error)
            self._ready.put(item)
            if item[2] is not None:
                return


def _rows_only(sharding: Sharding) -> Sharding:
    """Return the sharding of only the first dimension."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))
    return sharding
