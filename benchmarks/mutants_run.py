"""A copy of the project in which one file at a time is changed, and its tests, each in a fork of one process."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple

import pytest

__all__ = ["Calls", "Ended", "Tree"]

ROOT = pathlib.Path(__file__).resolve().parents[1]
COPIED = ("vmae_jax", "tests", "benchmarks", "launch", "docs", "pyproject.toml", "README.md")


class Ended(NamedTuple):
    """How tests ended (passed, failed, timeout), after how many seconds, and their output."""

    how: str
    seconds: float
    output: str


class Calls:
    """A plugin of pytest that notes which functions of the package each test calls, and how long it takes.

    What a fixture calls counts for every test of its file, since later tests may use what it made.
    """

    def __init__(self, root: pathlib.Path, out: pathlib.Path) -> None:
        self._root, self._out = f"{root / 'vmae_jax'}{os.sep}", out
        self.seconds: dict[str, float] = {}
        self.functions: dict[str, set[tuple[str, int]]] = {}  # by test or, of fixtures, by file: (path, first line)

    @contextlib.contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        found = self.functions.setdefault(name, set())
        start = len(self._root) - len("vmae_jax/")

        def trace(frame: FrameType, event: str, argument: Any) -> None:
            del event, argument
            if frame.f_code.co_filename.startswith(self._root):
                found.add((frame.f_code.co_filename[start:], frame.f_code.co_firstlineno))

        before, threads = sys.gettrace(), threading.gettrace()
        sys.settrace(trace)
        threading.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)
            threading.settrace(threads)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        with self._noted(item.nodeid.partition("::")[0]):
            yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        began = time.monotonic()
        with self._noted(item.nodeid):
            yield
        self.seconds[item.nodeid] = time.monotonic() - began

    def pytest_sessionfinish(self) -> None:
        functions = {name: sorted(found) for name, found in self.functions.items()}
        self._out.write_text(json.dumps({"seconds": self.seconds, "functions": functions}))


class Tree:
    """A copy of the project in which a file is replaced, tested in a fork of this process, and restored."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.root = folder / "tree"
        self.root.mkdir()
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, self.root / name)
        # What a mutant does not change is compiled once for all.
        os.environ |= {
            "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }  # fmt: skip

    def run(self, tests: list[str], limit: float, path: str = "", source: bytes = b"") -> Ended:
        """Run tests; with a path, that file has another source meanwhile."""
        file = self.root / path
        whole = file.read_bytes() if path else b""
        try:
            if path:
                file.write_bytes(source)
            return self._forked(tests, limit, None)
        finally:
            if path:
                file.write_bytes(whole)

    def noted(self, tests: list[str], limit: float) -> tuple[Ended, dict[str, Any]]:
        """Run tests; return what `Calls` noted as well, empty unless they passed."""
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "calls.json"
            ended = self._forked(tests, limit, Calls(self.root, out))
            return ended, json.loads(out.read_text()) if ended.how == "passed" else {}

    def _forked(self, tests: list[str], limit: float, plugin: Calls | None) -> Ended:
        began = time.monotonic()
        with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as scratch:
            pid = os.fork()
            if pid == 0:
                _child(self.root, tests, output.fileno(), scratch, plugin)
            how = _wait(pid, began + limit)
            output.seek(0)
            return Ended(how, time.monotonic() - began, output.read().decode(errors="replace"))


def _child(root: pathlib.Path, tests: list[str], output: int, scratch: str, plugin: Calls | None) -> None:
    """Run pytest in this fork, in a session of its own, and leave."""
    status = 1
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(root)
        sys.path[:0] = [str(root)]
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", f"--basetemp={scratch}/t"]
        status = pytest.main([*options, *tests], plugins=[plugin] if plugin else [])
        status = 0 if status == pytest.ExitCode.NO_TESTS_COLLECTED else int(status)  # all of them are slow
    finally:
        os._exit(status)


def _wait(pid: int, end: float) -> str:
    """Wait for a fork until `end`, and leave nothing of it running."""
    try:
        while time.monotonic() < end:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                pid = 0
                return "passed" if status == 0 else "failed"
            time.sleep(0.05)
        return "timeout"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid or found, signal.SIGKILL)
        if pid:
            os.waitpid(pid, 0)
