"""Child processes that may die: how their parent holds them (`Child`), and how they begin (`begin`).

Everything that opens a stranger's files runs in such a process, of training as of preparation. Messages are framed
by `send`: what the parent sends is pickled, and what comes back is JSON, so a decoder that was taken over by a crafted
file has nothing that the parent would unpickle.

A child never outlives its use: an idle one ends when the socket closes, which the kernel does even for a parent that
was killed; a busy one is ended by its own alarms, even inside a decoder's endless loop, and by a thread that watches
for a change of parent.
"""

import contextlib
import json
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

__all__ = ["Child", "begin", "opening", "receive", "receive_exactly", "send"]

HEADER = struct.Struct("<Q")  # bytes of a message
WATCH_SECONDS = 1.0


def opening(job: Any, *, memory: int) -> dict[str, Any]:
    """Return what the parent sends a child first (see `begin`).

    Args:
      job: pickled; it must be importable in the process.
      memory: bytes of address space.
    """
    return {"path": [path or os.getcwd() for path in sys.path], "memory": memory, "job": pickle.dumps(job)}


class Child:
    """A child process that may die, and our end of its socket.

    Args:
      module: that the process runs; it calls `begin` before anything else.
      settings: see `opening`.
    """

    def __init__(self, module: str, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._socket, theirs = socket.socketpair()
        with contextlib.ExitStack() as undo, theirs:
            undo.callback(self._socket.close)
            self._errors = undo.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(settings["path"])},
                start_new_session=True,  # an interrupt from the keyboard is the parent's business
            )
            undo.pop_all()
        self.alive = True

    def running(self) -> bool:
        """Return whether the process still exists."""
        return self.alive and self._process.poll() is None

    def begin(self) -> None:
        """Send the settings.

        Raises:
          OSError: if the process is gone.
        """
        send(self._socket, pickle.dumps(self._settings))

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield what the process sends until it ends."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                yield json.loads(receive(self._socket))

    def status(self) -> int:
        """Wait for the end of the process and return its exit status."""
        return self._process.wait()

    def kill(self) -> None:
        """End the process and wait until it is gone; a thread reading from it wakes."""
        self.alive = False
        self._process.kill()
        self._process.wait()

    def release(self) -> None:
        """End the process and close what was held for it; only by the thread that uses it."""
        self.kill()
        self._socket.close()
        self._errors.close()

    def last_words(self) -> str:
        """Return the last line that the process wrote to standard error, or the name of what ended it."""
        status = self._process.returncode
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        if lines:
            return lines[-1][:300]
        return signal.Signals(-status).name if status and status < 0 else f"exit status {status}"


def send(connection: socket.socket, payload: bytes) -> None:
    """Sends a message: its length, then itself."""
    connection.sendall(HEADER.pack(len(payload)))
    connection.sendall(payload)


def receive(connection: socket.socket) -> bytes:
    """The next message of `send`.

    Raises:
      EOFError: the other end closed.
    """
    (size,) = HEADER.unpack(receive_exactly(connection, HEADER.size))
    return bytes(receive_exactly(connection, size))


def receive_exactly(connection: socket.socket, size: int) -> bytearray:
    """Return the next bytes, so many. Raises EOFError: if the other end closed."""
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
      the socket, and the settings that the parent sent first (`opening`).

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
