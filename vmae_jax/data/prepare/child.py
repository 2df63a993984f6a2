"""The process that reads strangers' files: `python -m vmae_jax.data.prepare.child`, started by `produce`.

Decoders may crash or hang here without taking anything along. A job comes pickled from the parent;
what goes back is lines of JSON. The process ends when its parent does.
"""

import contextlib
import json
import os
import pickle
import resource
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from vmae_jax.data.video import MachineFault

__all__ = ["HEADER", "alarm", "main"]

HEADER = struct.Struct("<Q")
_MEMORY = 16 << 30  # bytes of address space: a crafted file cannot exhaust the host


def main() -> int:
    """Does the job that the parent asks for."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends this process, whatever it is in
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(_MEMORY)
    (size,) = HEADER.unpack(sys.stdin.buffer.read(HEADER.size))
    job, crashed = pickle.loads(sys.stdin.buffer.read(size))
    threading.Thread(target=_watch, daemon=True).start()

    def say(**line: Any) -> None:
        print(json.dumps(line), file=out, flush=True)

    try:
        job.run(crashed, say)
    except (OSError, MachineFault) as error:  # of the disk, not of a video
        say(machine=str(error))
        return 1
    return 0


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[Callable[[], None]]:
    """Ends this process unless what it gives is called every so often."""

    def alive() -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    alive()
    try:
        yield alive
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _limit_memory(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


def _watch() -> None:
    while os.read(0, 1):  # ends when the parent is gone; the descriptor, for the file's lock must be free at exit
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
