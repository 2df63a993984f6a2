"""What a process runs, and which files it opens for writing: noted while a case runs."""

import os
import pathlib
import sys
from typing import Any

__all__ = ["watch"]

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "vmae_jax"


def watch(inside: tuple[pathlib.Path, ...], log: pathlib.Path) -> None:
    """Note what this process runs, and which files it opens for writing outside of the room."""
    file, allowed = (
        os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (*(f"{folder}/" for folder in inside), "/dev/", "/proc/"),
    )

    def note(text: str) -> None:
        os.write(file, text.replace("\n", " ").encode(errors="backslashreplace")[:300] + b"\n")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.system", "os.exec", "os.posix_spawn"):
            note(f"{event} {arguments!r}")
        elif event == "subprocess.Popen" and arguments[0] != sys.executable and not _own_commit(arguments[1]):
            note(f"{event} {arguments[:2]!r}")
        elif event == "open" and isinstance(arguments[0], str | bytes) and _writes(arguments[1], arguments[2]):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            # A folder is opened for writing only to make a temporary file in it that has no name.
            if not path.startswith(allowed) and not os.path.isdir(path):
                note(f"open {path!r} for writing")

    sys.addaudithook(hook)


def _own_commit(command: Any) -> bool:
    """Whether git is asked for the commit of this package (`vmae_jax/commands/environment.py`), and runs nothing."""
    begins = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(PACKAGE / "commands")]
    return isinstance(command, list) and command[: len(begins)] == begins


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
