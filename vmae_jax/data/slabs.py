"""Memory that a worker fills and the trainer reads: pixels cross between processes without a copy.

The worker asks for memory (`Given`); the trainer makes it and hands it over (`Slabs`). A slab goes back into use when
the last array on it is gone. Pages are touched once and not for every video: fresh ones cost more than copying through
a socket would (measured: docs/performance.md). On Linux the size is sealed, so a decoder that was taken over cannot
pull it from under the trainer.
"""

import fcntl
import json
import mmap
import os
import socket
import struct
import tempfile
import weakref
from collections.abc import Mapping

import numpy as np

from vmae_jax.data.sandbox import receive_exactly, send
from vmae_jax.data.streams.core import ArraySpec

__all__ = ["SLAB", "Given", "Slab", "Slabs", "size_of"]

SLAB = struct.Struct("<QQQ?")  # number, bytes, one to forget (0: none), whether the handle comes along
_ROUND = 1 << 20  # sizes are whole MiB, so that videos of nearly one size share slabs
_ALIGNED = 64  # bytes: TensorFlow takes arrays that begin there without copying them


class Slab:
    """A piece of shared memory: `number` names it to the worker, `handle` is its file descriptor."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.handle = _file(size)
        self.memory = mmap.mmap(self.handle, size)

    def close(self) -> None:
        """Gives up the handle; the memory goes with the last array on it."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


class Slabs:
    """The slabs of one worker: never more than were in use at once."""

    def __init__(self) -> None:
        self._idle: list[Slab] = []
        self._count = 0
        self._closed = False

    def take(self, size: int) -> tuple[Slab, int]:
        """A slab of at least `size` bytes, and the number of the one that went for it (0: none)."""
        fitting = [slab for slab in self._idle if slab.size >= size]
        if fitting:
            slab = min(fitting, key=lambda slab: slab.size)
            self._idle.remove(slab)
            return slab, 0
        gone = 0
        if self._idle:
            small = self._idle.pop()
            gone = small.number
            small.close()
        self._count += 1
        return Slab(self._count, -(-size // _ROUND) * _ROUND), gone

    def arrays(self, slab: Slab, specs: Mapping[str, ArraySpec]) -> dict[str, np.ndarray]:
        """Return the arrays on a slab; it is idle again when nothing refers to any of them."""
        flat = np.frombuffer(slab.memory, np.uint8, size_of(specs))
        weakref.finalize(flat, self._give_back, slab).atexit = False  # the system takes all back
        return _views(flat, specs)

    def close(self) -> None:
        """Lets go of every slab; arrays that are still in use stay as they are."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _give_back(self, slab: Slab) -> None:
        if self._closed:
            slab.close()
        else:
            self._idle.append(slab)


class Given:
    """In the worker: the memory that the trainer gives for arrays."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._known: dict[int, np.ndarray] = {}

    def allocate(self, specs: Mapping[str, ArraySpec]) -> dict[str, np.ndarray]:
        """Ask for memory for these arrays."""
        shapes = {name: spec.shape for name, spec in specs.items()}
        send(self._connection, json.dumps({"shapes": shapes}).encode())
        message, handles, _, _ = socket.recv_fds(self._connection, SLAB.size, 1)
        if not message:
            raise EOFError("the other end closed")
        message += bytes(receive_exactly(self._connection, SLAB.size - len(message)))
        number, size, gone, comes = SLAB.unpack(message)
        self._known.pop(gone, None)
        if comes:
            self._known[number] = np.frombuffer(mmap.mmap(handles[0], size), np.uint8)
            os.close(handles[0])
        return _views(self._known[number], specs)


def size_of(specs: Mapping[str, ArraySpec]) -> int:
    """Return the bytes that arrays take, one after the other, each at an aligned place."""
    return sum(_room(spec) for spec in specs.values())


def _views(flat: np.ndarray, specs: Mapping[str, ArraySpec]) -> dict[str, np.ndarray]:
    """Return the arrays that `size_of` counts, on memory of at least that size."""
    found, at = {}, 0
    for name, spec in specs.items():
        found[name] = flat[at : at + spec.bytes].view(spec.dtype).reshape(spec.shape)
        at += _room(spec)
    return found


def _room(spec: ArraySpec) -> int:
    return -(-spec.bytes // _ALIGNED) * _ALIGNED


def _file(size: int) -> int:
    if not hasattr(os, "memfd_create"):  # not Linux: a file without a name
        with tempfile.TemporaryFile() as file:
            os.truncate(file.fileno(), size)
            return os.dup(file.fileno())
    handle = os.memfd_create("vmae_jax", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(handle, size)
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return handle
