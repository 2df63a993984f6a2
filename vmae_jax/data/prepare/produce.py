"""Does a job on videos in a process that may die: the same here and on the machines of an Apache Beam pipeline."""

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sized
from typing import Any, Protocol

from vmae_jax.data.prepare.child import HEADER
from vmae_jax.data.video import MachineFault

__all__ = ["Children", "Job", "produce"]


class Job(Protocol):
    """Work on some videos, in turn. Pickled to the process that does it."""

    @property
    def number(self) -> int: ...
    @property
    def part(self) -> Sized: ...
    @property
    def timeout(self) -> float: ...

    def run(self, crashed: Mapping[int, str], say: Callable[..., None]) -> None:
        """Does it.

        Args:
          crashed: videos that are not to be tried again, and why.
          say: told `at=`, the number of the video that is begun, and `done=` with what came of it.
        """
        ...


class Children:
    """The processes at work, so that they can be ended together."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def add(self, child: subprocess.Popen[bytes]) -> None:
        """Raises RuntimeError: after `kill`."""
        with self._lock:
            self._running.add(child)
            closed = self._closed
        if closed:
            child.kill()
            raise RuntimeError("the preparation was stopped")

    def remove(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.discard(child)

    def kill(self) -> None:
        """Ends all, and lets no other begin."""
        with self._lock:
            self._closed = True
            for child in self._running:
                child.kill()


def produce(
    job: Job, *, hear: Callable[[dict[str, Any]], None] | None = None, children: Children | None = None
) -> None:
    """Does the job, to its end.

    A video that hangs or crashes its process twice is given up; the job is begun again without it.

    Args:
      job: what to do.
      hear: told what the process says.
      children: keeps the process, while it runs.

    Raises:
      MachineFault: if this machine fails: a full disk, a limit on the size of files.
      RuntimeError: if the process cannot start, or fails where no video is to blame.
    """
    crashed: dict[int, str] = {}
    deaths: dict[int, int] = {}
    while True:
        status, at, words = _attempt(job, crashed, hear or (lambda line: None), children or Children())
        if status == 0:
            return
        if status > 0 or at is None or at in crashed:
            raise RuntimeError(f"job {job.number} failed: {words or f'status {status}'}")
        deaths[at] = deaths.get(at, 0) + 1
        if deaths[at] > 1:  # once may have been somebody from outside, or a machine that was suspended
            crashed[at] = (
                f"takes longer than {job.timeout:g} s for a frame"
                if status == -signal.SIGALRM
                else f"crashes the decoder ({signal.Signals(-status).name})"
            )


def _attempt(
    job: Job, crashed: dict[int, str], hear: Callable[[dict[str, Any]], None], children: Children
) -> tuple[int, int | None, str]:
    """The process's exit status, the video it was in the middle of, and what it said of its end."""
    with tempfile.TemporaryFile() as errors, _start(errors) as child:
        children.add(child)
        try:
            at, words = _listen(child, pickle.dumps((job, crashed)), hear)
            status = child.wait()
        finally:
            child.kill()
            children.remove(child)
        errors.seek(0)
        told = errors.read().decode(errors="replace").strip().splitlines()
        return status, at, words or (told[-1][:300] if told else "")


def _start(errors: Any) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", "vmae_jax.data.prepare.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,  # an interrupt from the keyboard is the parent's business
    )


def _listen(
    child: subprocess.Popen[bytes], message: bytes, hear: Callable[[dict[str, Any]], None]
) -> tuple[int | None, str]:
    assert child.stdin is not None
    assert child.stdout is not None
    at, words = None, ""
    try:
        child.stdin.write(HEADER.pack(len(message)) + message)
        child.stdin.flush()
        for raw in child.stdout:
            line = json.loads(raw)
            if "machine" in line:
                raise MachineFault(f"the preparation cannot go on: {line['machine']}; the same command resumes it")
            at = None if "done" in line else line.get("at", at)
            hear(line)
    except BrokenPipeError:
        words = words or "it ended before it was told what to do"
    return at, words
