"""Starts a command, and restarts it if its exit code means that the same command resumes.

    python -m vmae_jax.runtime.supervisor [--processes=N] -- vmae train --config=… --workdir=…

A lost peer ends a process from inside C++, without a chance to clean up: what restarts it must be
another process. Several processes of one machine (`--processes`) are started as one job, and
restarted together.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from vmae_jax.runtime import streams

__all__ = ["RESTART", "main", "supervise"]

# Preempted or saved for later; SIGABRT, SIGKILL, SIGTERM.
RESTART = frozenset({75, 134, 137, 143})
LONG = 600.0  # seconds after which a run counts as healthy, and its restarts are forgotten


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status of the command."""
    parser = argparse.ArgumentParser(prog="vmae_jax.runtime.supervisor", description=__doc__, allow_abbrev=False)
    parser.add_argument("--processes", type=int, default=1, help="as one job on this machine (default 1)")
    parser.add_argument("--restarts", type=int, default=10, help="in a row, before it gives up (default 10)")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds for peers to end (default 30)")
    parser.add_argument("--wait", type=float, default=1.0, help="seconds before a restart; doubles, to 60 (default 1)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND …")
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command or args.processes < 1:
        parser.error("give a command after --, and at least one process")
    with streams.forgiving():
        return supervise(command, processes=args.processes, restarts=args.restarts, grace=args.grace, wait=args.wait)


def supervise(command: Sequence[str], *, processes: int, restarts: int, grace: float, wait: float) -> int:
    """Runs `command` until it is done, refused, asked to stop, or restarted too often.

    SIGTERM and SIGINT go to the processes, which save; then it ends with their status.

    Args:
      processes: copies as one job; each finds its number in VMAE_PROCESS.
      restarts: allowed in a row.
      grace: seconds that the others have to end, once one has.
      wait: seconds before the first restart; each next one waits twice as long, 60 at most.
    """
    job = _Job(command, processes)
    before = {number: signal.signal(number, job.stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        tries = 0
        while True:
            began = time.monotonic()
            job.start()
            status = job.finish(grace)
            if status not in RESTART or job.stopping:
                return status
            tries = 1 if time.monotonic() - began > LONG else tries + 1
            if tries > restarts:
                _print(f"status {status} again; {restarts} restarts were of no use")
                return status
            pause = min(60.0, wait * 2 ** (tries - 1))
            _print(f"ended with status {status}; restart {tries} of {restarts} in {pause:g} s")
            if job.pause(pause):
                return status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Job:
    """The processes of one attempt."""

    def __init__(self, command: Sequence[str], count: int):
        self.command, self.count = list(command), count
        self.running: list[subprocess.Popen[bytes]] = []
        self.stopping = False

    def start(self) -> None:
        environment = dict(os.environ)
        if self.count > 1:
            environment |= {"VMAE_COORDINATOR": f"127.0.0.1:{_free_port()}", "VMAE_PROCESSES": str(self.count)}
        self.running = []
        for rank in range(self.count):
            own = environment | ({"VMAE_PROCESS": str(rank)} if self.count > 1 else {})
            # The result, the last line of standard output, is printed once.
            self.running.append(subprocess.Popen(self.command, env=own, stdout=None if rank == 0 else sys.stderr))
        _print(f"started {', '.join(f'process {i} (pid {p.pid})' for i, p in enumerate(self.running))}")

    def stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.stopping = True
        for process in self.running:
            if process.poll() is None:
                process.send_signal(number)

    def finish(self, grace: float) -> int:
        """Waits for all; once one has failed, the others have `grace` seconds before they are killed."""
        deadline = None
        while True:
            codes = [process.poll() for process in self.running]
            if all(code is not None for code in codes):
                break
            if deadline is None and any(codes):  # a status other than None and 0
                deadline = time.monotonic() + grace
                first = next(i for i, code in enumerate(codes) if code)
                _print(f"process {first} ended with status {_status(codes[first])}; the others have {grace:g} s")
            if deadline is not None and time.monotonic() > deadline:
                for process in self.running:
                    process.kill()
            time.sleep(0.1)
        statuses = [_status(process.returncode) for process in self.running]
        if len(statuses) > 1:
            _print(f"statuses {statuses}")
        # Errors that need a person (1, 2) take precedence over those of restarts, which they cause.
        final = [status for status in statuses if status and status not in RESTART]
        return final[0] if final else max(statuses)

    def pause(self, seconds: float) -> bool:
        """Sleeps; True if it was asked to stop meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stopping:
            time.sleep(0.05)
        return self.stopping


def _status(code: int | None) -> int:
    """Return the status as a shell does: 128 plus the number of the signal."""
    assert code is not None
    return 128 - code if code < 0 else code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _print(text: str) -> None:
    print(f"supervisor: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
