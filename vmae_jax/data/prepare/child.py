"""The process that reads strangers' files: `python -m vmae_jax.data.prepare.child`, started by `produce`.

Decoders may crash or hang here without taking anything along. The process does one job, and reports its progress.
"""

import contextlib
import json
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from vmae_jax.data.video import MachineFault
from vmae_jax.data.worker import begin, send

__all__ = ["alarm", "main"]


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
