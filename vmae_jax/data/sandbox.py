"""Child processes that may die, as their parent holds them: the socket, and how they end.

Everything that opens a stranger's files runs in such a process, of training as of preparation. Messages are framed
by `worker.send`: what the parent sends is pickled, what comes back is JSON, and the child ends with its parent.
"""

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from vmae_jax.data.worker import receive, send

__all__ = ["Child", "opening"]


def opening(job: Any, *, memory: int) -> dict[str, Any]:
    """Return what the parent sends a child first (`worker.begin`).

    Args:
      job: pickled; it must be importable in the process.
      memory: bytes of address space.
    """
    return {"path": [path or os.getcwd() for path in sys.path], "memory": memory, "job": pickle.dumps(job)}


class Child:
    """A child process that may die, and our end of its socket.

    Args:
      module: that the process runs; it calls `worker.begin` before anything else.
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
