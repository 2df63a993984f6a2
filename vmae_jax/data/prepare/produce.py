"""Do a job on videos in a process that may die: the same here and on the machines of an Apache Beam pipeline.

The process, `python -m vmae_jax.data.prepare.produce`, does one job and reports its progress. Decoders may crash
or hang in it without taking anything along.
"""

import contextlib
import json
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any, Protocol

from vmae_jax.data.sandbox import Child, begin, opening, send
from vmae_jax.data.video import MachineFault

__all__ = ["MEMORY", "Children", "Job", "alarm", "main", "produce"]

MEMORY = 16 << 30  # bytes of address space: a crafted file cannot exhaust the host


class Job(Protocol):
    """Work on some videos, in turn. Pickled to the process that does it."""

    @property
    def number(self) -> int: ...
    @property
    def part(self) -> Sized: ...
    @property
    def timeout(self) -> float: ...

    def run(self, crashed: Mapping[int, str], report: Callable[..., None], /) -> None:
        """Do it.

        Args:
          crashed: videos that are not to be tried again, and why.
          report: called with `at=`, the number of the video that is begun, and with `done=` and what came of it.
        """
        ...


class Children:
    """The processes at work, so that they can be ended together."""

    def __init__(self) -> None:
        self._running: set[Child] = set()
        self._lock = threading.Lock()
        self._closed = False

    def add(self, child: Child) -> None:
        """Keep a process. Raises RuntimeError after `kill`."""
        with self._lock:
            self._running.add(child)
            closed = self._closed
        if closed:
            child.kill()
            raise RuntimeError("the preparation was stopped")

    def remove(self, child: Child) -> None:
        with self._lock:
            self._running.discard(child)

    def kill(self) -> None:
        """End all, and let no other begin."""
        with self._lock:
            self._closed = True
            for child in self._running:
                child.kill()


def produce(
    job: Job, *, on_message: Callable[[dict[str, Any]], None] | None = None, children: Children | None = None
) -> None:
    """Do the job, to its end.

    A video that hangs or crashes its process twice is given up; the job is begun again without it.

    Args:
      job: what to do.
      on_message: called with what the process reports.
      children: keeps the process, while it runs.

    Raises:
      MachineFault: if this machine fails: a full disk, a limit on the size of files.
      RuntimeError: if the process cannot start, or fails where no video is to blame.
    """
    crashed: dict[int, str] = {}
    deaths: dict[int, int] = {}
    while True:
        status, at, words = _attempt(job, crashed, on_message or (lambda message: None), children or Children())
        if status == 0:
            return
        if status > 0 or at is None or at in crashed:
            raise RuntimeError(f"job {job.number} failed: {words}")
        deaths[at] = deaths.get(at, 0) + 1
        if deaths[at] > 1:  # once may have been somebody from outside, or a machine that was suspended
            crashed[at] = (
                f"takes longer than {job.timeout:g} s for a frame"
                if status == -signal.SIGALRM
                else f"crashes the decoder ({signal.Signals(-status).name})"
            )


def _attempt(
    job: Job, crashed: dict[int, str], on_message: Callable[[dict[str, Any]], None], children: Children
) -> tuple[int, int | None, str]:
    """Return the process's exit status, the video it was in the middle of, and its last words."""
    child = Child("vmae_jax.data.prepare.produce", opening((job, crashed), memory=MEMORY))
    try:
        children.add(child)
        at = _listen(child, on_message)
        return child.status(), at, child.last_words()
    finally:
        children.remove(child)
        child.release()


def _listen(child: Child, on_message: Callable[[dict[str, Any]], None]) -> int | None:
    """Pass on what the process reports to its end; return the video that it had begun and not finished."""
    at = None
    with contextlib.suppress(ConnectionError):  # it ended at once; its status is looked at next
        child.begin()
    for message in child.messages():
        if "machine" in message:
            raise MachineFault(f"the preparation cannot go on: {message['machine']}; the same command resumes it")
        at = None if "done" in message else message.get("at", at)
        on_message(message)
    return at


def main(arguments: list[str]) -> int:
    """Do the job that the parent sends."""
    try:
        connection, settings = begin(arguments)
    except (EOFError, ConnectionError):
        return 1  # the parent is gone
    job, crashed = pickle.loads(settings["job"])

    def report(**message: Any) -> None:
        try:
            send(connection, json.dumps(message).encode())
        except ConnectionError:
            sys.exit(1)  # the parent is gone

    try:
        job.run(crashed, report)
    except (OSError, MachineFault) as error:  # of the disk, not of a video
        report(machine=str(error))
        return 1
    return 0


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[Callable[[], None]]:
    """End this process unless the function that is yielded is called every so often."""

    def alive() -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    alive()
    try:
        yield alive
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
