"""The process that decodes: `python -m vmae_jax.data.worker FD`, started by `workers.Workers`.

It reads jobs from a socket and answers with the arrays of clips: pictures, and the streams beside them. A job is
pickled by the trainer (the only one at the other end of the socket); an answer is JSON, and arrays in memory that
the trainer made (`slabs`), so a decoder that was taken over by a crafted file has nothing that the trainer would
unpickle.

It never outlives its use: an idle worker ends when the socket closes, which the kernel does even
for a trainer that was killed; a busy one is ended by its own alarms (one counts processor time, a later
one the time of day), even inside a decoder's endless loop, and by a thread that watches for a change of parent.
"""

import json
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from vmae_jax.data.slabs import filled, views
from vmae_jax.data.streams.core import ArraySpec

__all__ = ["SLAB", "begin", "main", "receive", "send"]

HEADER = struct.Struct("<Q")
SLAB = struct.Struct("<QQQ?")  # number, bytes, one to forget (0: none), whether the handle comes along
WATCH_SECONDS = 1.0


def send(connection: socket.socket, payload: bytes) -> None:
    """Sends a message: its length, then itself."""
    connection.sendall(HEADER.pack(len(payload)))
    connection.sendall(payload)


def receive(connection: socket.socket) -> bytes:
    """The next message of `send`.

    Raises:
      EOFError: the other end closed.
    """
    (size,) = HEADER.unpack(_exactly(connection, HEADER.size))
    return bytes(_exactly(connection, size))


def _exactly(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise EOFError("the other end closed")
        view = view[count:]
    return data


def begin(arguments: list[str]) -> tuple[socket.socket, dict[str, Any]]:
    """Turn this process into one that may die at no cost: limited, ended by its alarms and with its parent.

    Args:
      arguments: the number of the socket's descriptor, and the parent's process number.

    Returns:
      the socket, and the settings that the parent sent first (`sandbox.opening`).

    Raises:
      EOFError: if the parent closed the socket.
    """
    connection = socket.socket(fileno=int(arguments[0]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, signal.SIG_DFL)  # ends this process, whatever it is in
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_watch, args=(int(arguments[1]),), daemon=True).start()
    settings = pickle.loads(receive(connection))
    sys.path[:] = settings["path"]  # where the parent finds its modules, so does this process
    _limit_memory(settings["memory"])
    return connection, settings


def main(arguments: list[str]) -> int:
    """Serves jobs until the trainer closes the socket."""
    try:
        connection, settings = begin(arguments)
        alarms = {signal.ITIMER_PROF: settings["timeout"], signal.ITIMER_REAL: settings["still"]}
        serve(connection, pickle.loads(settings["job"]), alarms)
    except (EOFError, ConnectionError):
        pass  # the trainer closed the socket or is gone: the end of the work
    return 0


def serve(connection: socket.socket, job: dict[str, Any], alarms: Mapping[Any, float]) -> None:
    """Answer each example with its clips or with the reason why there are none.

    Args:
      connection: to the trainer.
      job: the sampler, the crop, the channels and the streams.
      alarms: timer -> seconds that an example may take by it.
    """
    from vmae_jax.data import decode

    send(connection, b'{"ready": true}')
    given = _Given(connection)
    while True:
        encoded, seed, wanted = pickle.loads(receive(connection))
        for timer, seconds in alarms.items():
            signal.setitimer(timer, seconds)
        began = time.process_time()
        try:
            read = decode.read_clips(encoded, seed=seed, wanted=wanted, allocate=given.allocate, **job)
            spent = time.process_time() - began
            answer = {"decoding": spent - read.cropping, "cropping": read.cropping}
        except decode.BadVideo as error:
            answer = {"bad": str(error), "kind": error.kind}
        except decode.MachineFault as error:
            answer = {"machine": str(error)}
        except MemoryError:
            answer = {"bad": "needs more memory than a decoder may use", "kind": "broken"}
        except (EOFError, ConnectionError):
            raise  # the trainer is gone
        except Exception as error:  # a sampler's own fault: reported, not hidden
            answer = {"fault": f"{type(error).__name__}: {error}"}
        finally:
            for timer in alarms:
                signal.setitimer(timer, 0)
        send(connection, json.dumps(answer).encode())


class _Given:
    """The memory that the trainer gives for arrays."""

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
        message += bytes(_exactly(self._connection, SLAB.size - len(message)))
        number, size, gone, comes = SLAB.unpack(message)
        self._known.pop(gone, None)
        if comes:
            self._known[number] = filled(handles[0], size)
            os.close(handles[0])
        return views(self._known[number], specs)


def _limit_memory(size: int) -> None:
    """Refuses this process more than `size` bytes, so a crafted file cannot exhaust the host."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
