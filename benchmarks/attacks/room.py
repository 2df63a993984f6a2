"""A process and a folder for one case, and what is watched while it runs.

A case gets a `Room`: a folder with a home, a place for temporary files and a working folder, and `vmae`, which
runs a command in a fork of this process (imported once, with no backend and no thread). `Building` makes rooms,
and the files that several cases start from.
"""

import contextlib
import ctypes
import dataclasses
import importlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from benchmarks.attacks.watch import watch

__all__ = ["Attempt", "Building", "Found", "Outcome", "Room"]

LIMIT = 240.0  # seconds of one case; machines are busy
LEAVE = 10.0  # seconds in which the processes of a case have to be gone
IMPORTS = ("tensorflow", "orbax.checkpoint", "vmae_jax.cli", "vmae_jax.commands.restore", "vmae_jax.data.feed",
           "vmae_jax.commands.train", "vmae_jax.data.prepare.run", "vmae_jax.data.prepare.validate")  # fmt: skip
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: processes whose parent ends become children of this one


class Found(NamedTuple):
    """What became of a case: of `tried` things all but the `problems` were survived."""

    name: str
    problems: tuple[str, ...] = ()
    tried: int = 1


class Outcome(NamedTuple):
    """How a command ended, as a shell has it."""

    status: int
    out: str
    err: str
    events: tuple[str, ...]

    @property
    def answer(self) -> dict[str, Any]:
        """The JSON object of the last line; empty if it is none."""
        with contextlib.suppress(ValueError, IndexError):
            found = json.loads(self.out.splitlines()[-1])
            return found if isinstance(found, dict) else {}
        return {}


@dataclasses.dataclass
class Room:
    """The folder of a case.

    Attributes:
      path: of the room; `work`, `home`, `tmp` and `outside` are in it. Nothing may change in `outside`.
      base: of the files that cases start from, made by `shared`.
      random: of the case.
      port: of a server on this machine that nothing may connect to.
    """

    path: pathlib.Path
    base: pathlib.Path
    random: random.Random
    port: int

    def __post_init__(self) -> None:
        self.work, self.home, self.tmp, self.outside = (self.path / name for name in ("work", "home", "tmp", "outside"))
        self.marker = self.outside / "marker"
        for folder in (self.work, self.home, self.tmp, self.outside):
            folder.mkdir(parents=True)
        (self.outside / "secret.txt").write_text("outside\n")

    def vmae(self, *arguments: Any, limit: float = LIMIT) -> Outcome:
        """Run a command in a fork, in the working folder."""

        def act() -> int:
            from vmae_jax.cli import main

            return main([os.fspath(one) if isinstance(one, pathlib.Path) else str(one) for one in arguments])

        return self.call(act, limit=limit)

    def call(self, function: Callable[[], int | None], *, limit: float = LIMIT) -> Outcome:
        """Call a function in a fork; its exit status is what it returns."""
        pid, log = self.start(function), self._logs[-1]
        end = time.monotonic() + limit
        while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out, err, events = (
            (log / name).read_text(errors="surrogateescape") if (log / name).exists() else ""
            for name in ("out", "err", "events")
        )
        return Outcome(status if status >= 0 else 128 - status, out, err, tuple(events.splitlines()))

    _logs: list[pathlib.Path] = dataclasses.field(default_factory=list)

    def start(self, function: Callable[[], int | None]) -> int:
        """Call a function in a fork; return its process."""
        log = self.path / "logs" / str(len(self._logs))
        log.mkdir(parents=True)
        self._logs.append(log)
        pid = os.fork()
        if pid == 0:
            self._child(function, log)
        return pid

    def _child(self, function: Callable[[], int | None], log: pathlib.Path) -> NoReturn:
        status = 1
        try:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(log / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            os.chdir(self.work)
            watch((self.path, self.base), log / "events")
            status = function() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def problems(self, outcome: Outcome, statuses: set[int], least: str = "") -> list[str]:
        """What is wrong with how a command ended.

        Args:
          outcome: of the command.
          statuses: those that are expected.
          least: words that the error must have, where it ended with another status than 0.
        """
        found = [f"it did {event}" for event in outcome.events]
        error = str(outcome.answer.get("error", ""))
        if outcome.status not in statuses:
            found.append(f"status {outcome.status}: {(outcome.err.strip() or '?').splitlines()[-1][:300]}")
        elif outcome.status and (not error or "\n" in error):
            found.append(f"status {outcome.status} without one line: {error[:200]!r}")
        elif outcome.status and least not in error:
            found.append(f"status {outcome.status} for another reason: {error[:200]!r}")
        if "Traceback" in outcome.err:
            found.append(f"a traceback: {outcome.err.strip().splitlines()[-1][:300]}")
        return found

    def outside_problems(self) -> list[str]:
        """What was changed outside of the working folder."""
        names = sorted(entry.name for entry in self.outside.iterdir())
        found = [f"outside there is {names}"] if names != ["secret.txt"] else []
        if not found and (self.outside / "secret.txt").read_text() != "outside\n":
            found.append("a file outside was changed")
        left = sorted(str(file.relative_to(self.tmp)) for file in self.tmp.rglob("*") if file.is_file())
        # TensorFlow removes the functions that it has rewritten where a process ends by itself, and cases do not.
        left = [name for name in left if not name.startswith("__autograph_generated_file")]
        return found + [f"a temporary file was left: {name}" for name in left]

    def shared(self, name: str, make: Callable[[pathlib.Path], Any]) -> pathlib.Path:
        """A folder that cases start from and do not change; made by the first that needs it."""
        folder = self.base / name
        if not folder.exists():
            part = self.path / "shared"
            part.mkdir()
            outcome = self.call(lambda: make(part))
            if outcome.status:
                raise RuntimeError(f"{name} could not be made: {outcome.err[-1000:]}")
            part.rename(folder)
        return folder


Attempt = Callable[[int, Room], Found]


class Building:
    """Where rooms are; one case after the other."""

    def __init__(self, folder: pathlib.Path) -> None:
        _prepare()
        self._folder = folder
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._server.setblocking(False)
        (folder / "base").mkdir()

    def run(self, attempt: Attempt, category: str, number: int, seed: int) -> dict[str, Any]:
        """Run a case in a process of its own; return its line of JSON."""
        began = time.monotonic()
        path = self._folder / "room"
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            chance = random.Random(f"{seed} {category} {number}")
            self._case(
                attempt, number, Room(path, self._folder / "base", chance, self._server.getsockname()[1]), writing
            )
        os.close(writing)
        with os.fdopen(reading) as answers:
            text = answers.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        found = Found(*json.loads(text)) if text else Found("?", (f"the case ended with {status}",))
        problems = [*found.problems, *self._connections()]
        _remove(path)
        return {
            "category": category, "case": number, "seed": seed, "name": found.name, "tried": found.tried,
            "survived": max(0, found.tried - len(problems)), "problem": "; ".join(problems)[:2000],
            "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip

    def _case(self, attempt: Attempt, number: int, room: Room, answers: int) -> NoReturn:
        try:
            ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
            tempfile.tempdir = None  # remembered since the imports
            os.environ |= {
                "HOME": str(room.home),
                "TMPDIR": str(room.tmp),
                "XDG_CACHE_HOME": str(self._folder / "base"),
                "VMAE_CACHE": str(self._folder / "base" / "programs"),
            }
            try:
                found = attempt(number, room)
            except Exception as error:
                lines = traceback.format_exc().strip().splitlines()
                found = Found("?", (f"the case itself failed: {error!r} {lines[-3:-1]}",))
            problems = (*found.problems, *room.outside_problems(), *_left_over())
            found = found._replace(problems=problems)
            with os.fdopen(answers, "w") as file:
                json.dump(found, file)
        finally:
            os._exit(0)

    def _connections(self) -> list[str]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                self._server.accept()[0].close()
                found.append("it connected to a server that a file named")
        return found


def _prepare() -> None:
    """Import what commands need, so that forks have it; start no backend and no thread."""
    root = pathlib.Path(__file__).resolve().parents[2]
    os.environ |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    # Compile fast: no optimization, and the emitters of fused operations that take less than half the time.
    flags = ("force_host_platform_device_count=1", "backend_optimization_level=0", "cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(f"--xla_{flag}" for flag in flags)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    for name in IMPORTS:
        importlib.import_module(name)


def _left_over() -> list[str]:
    """End the processes that a case left, and return what they were."""
    end, left = time.monotonic() + LEAVE, {}
    while (pids := _children()) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in pids:
        with contextlib.suppress(OSError):
            left[pid] = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            os.kill(pid, signal.SIGKILL)
    return [f"a process is left over: {line[:200]}" for line in left.values()]


def _children() -> list[int]:
    """Processes below this one that have not ended; those that have are waited for."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    file = pathlib.Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in file.read_text().split()]


def _remove(path: pathlib.Path) -> None:
    shutil.rmtree(os.fsencode(path), ignore_errors=True)
    if path.exists():
        raise RuntimeError(f"{path} cannot be removed")
