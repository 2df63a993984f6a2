"""Clouds and schedulers that are not here: programs on PATH that keep their own state, and write down every call."""

import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Cloud(NamedTuple):
    """The fake programs on PATH: they change `state`, and record their arguments in `calls`."""

    folder: pathlib.Path

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "state.json").read_text())

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        (self.folder / "state.json").write_text(json.dumps(value))

    @property
    def calls(self) -> list[list[str]]:
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def forget(self) -> None:
        (self.folder / "calls.jsonl").unlink(missing_ok=True)

    def program(self, name: str, code: str) -> None:
        """Puts `name` on PATH; `code` has argv, state (a dict, stored afterwards), reply(text), fail(text)."""
        file = self.folder / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!{sys.executable}\n{PRELUDE.format(folder=str(self.folder), name=name)}{code}\nkeep()\n")
        file.chmod(0o755)

    def environment(self, vmae: str, extra: str = "") -> pathlib.Path:
        """An environment that launch/environment.sh takes for made: this Python, and `vmae` as given."""
        venv = self.folder / "venv"
        (venv / "bin").mkdir(parents=True)
        python = f'#!/usr/bin/env bash\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n'
        for name, text in (("vmae", vmae), ("python", python)):
            (venv / "bin" / name).write_text(text)
            (venv / "bin" / name).chmod(0o755)
        texts = b"".join((ROOT / name).read_bytes() for name in ("requirements.txt", "pyproject.toml"))
        sums = subprocess.run(["cksum"], input=texts, capture_output=True, check=True).stdout.decode().strip()
        (venv / ".vmae-stamp").write_text(f"{sums}{extra and ' ' + extra}\n")
        return venv

    def run(self, *command: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
        """`bash launch/COMMAND…` with the programs first on PATH."""
        script = [str(ROOT / "launch" / command[0]), *command[1:]]
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        own = {key: value for key, value in os.environ.items() if not key.startswith(("VMAE_", "SLURM_"))}
        return subprocess.run(
            ["bash", *script], cwd=self.folder, env=own | {"PATH": path} | environment,
            capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip


PRELUDE = """
import fcntl, json, os, pathlib, subprocess, sys
folder, argv = pathlib.Path({folder!r}), sys.argv[1:]
lock = (folder / "lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX)
state = json.loads((folder / "state.json").read_text())
with (folder / "calls.jsonl").open("a") as file:
    file.write(json.dumps([{name!r}, *argv]) + chr(10))
def keep():
    (folder / "state.json").write_text(json.dumps(state))
def reply(text, status=0):
    print(text)
    keep()
    sys.exit(status)
def fail(text):
    print(text, file=sys.stderr)
    sys.exit(1)
def option(name):
    return next((a.partition("=")[2] for a in argv if a.startswith(name + "=")), None)
"""


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> Cloud:
    made = Cloud(tmp_path)
    made.state = {}
    return made


@pytest.fixture
def shown() -> Callable[[str], list[list[str]]]:
    """The commands in the output of a dry run, as words."""

    def parse(text: str) -> list[list[str]]:
        return [shlex.split(line) for line in text.splitlines() if line and not line.startswith("#")]

    return parse
