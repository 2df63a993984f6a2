"""How a run was started: command line, commit, versions and devices, one row of `environment.jsonl` per start."""

import importlib.metadata
import itertools
import json
import pathlib
import platform
import re
import shlex
import subprocess
import time
import uuid
from collections.abc import Sequence
from typing import Any

import jax

from vmae_jax.commands.course import devices
from vmae_jax.io.paths import Log, Workdir
from vmae_jax.version import VERSION

__all__ = ["command_line", "commit_of", "identity", "record"]

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow", "av")
HIDDEN = "***"
_SECRET = re.compile(
    r"(?:^|[._-])(?:\w*token|secret\w*|passw\w*|pwd|api[-_]?key|access[-_]?key|private[-_]?key|credentials?)$", re.I
)
_URL_SECRET = re.compile(r"(?<=://)[^/@\s]+@")  # user:password@host
_SIGNATURE = re.compile(r"(?<=\?)\S*(?:sig|token|key|credential)\S*", re.I)  # of a signed address
_SECONDS = 10.0  # that git may take


def record(workdir: Workdir, start: int, command: Sequence[str] = ()) -> dict[str, Any]:
    """Append a row about this start to `environment.jsonl`, on process 0.

    Args:
      workdir: of the run.
      start: the step that training continues from.
      command: the command line, as a list; secrets are left out.

    Returns:
      the row: "id" (of the run, kept when it resumes), "step", "time", "command", "commit", "versions", "devices", ….
    """
    packages = {name: found for name in PACKAGES if (found := _version(name))}
    row = {
        "id": (identity(workdir) if start else "") or uuid.uuid4().hex[:12],
        "step": start,
        "time": time.time(),
        "command": command_line(command),
        "commit": commit_of(pathlib.Path(__file__)),
        "versions": {"vmae_jax": VERSION, "python": platform.python_version()} | packages,
        "platform": f"{platform.system()} {platform.machine()}",
        "devices": devices(),
        "processes": jax.process_count(),
    }
    config = _config_file(command)
    if config is not None and (commit := commit_of(config)) not in (None, row["commit"]):
        row["config_commit"] = commit
    if jax.process_index() == 0:
        log = Log(workdir.environment)
        log.append([json.dumps(row, ensure_ascii=False)])
        log.flush()
    return row


def identity(workdir: Workdir) -> str:
    """Return the id of the run in a workdir, or ""."""
    for line in reversed(Log(workdir.environment).lines()):
        try:
            found = json.loads(line)["id"]
        except (ValueError, TypeError, KeyError):
            continue
        return str(found)
    return ""


def command_line(command: Sequence[str]) -> str:
    """Return the command, quoted for a shell, with `***` in place of every secret.

    A secret is the value of an option whose name ends in token, secret, password, key of an API or the like,
    the user and password in an address, and the query of a signed address.
    """
    shown, hide = [], False
    for argument in command:
        name, equals, _ = argument.partition("=")
        if hide and not argument.startswith("-"):
            argument, hide = HIDDEN, False
        elif argument.startswith("-") and _SECRET.search(name):
            argument, hide = (f"{name}={HIDDEN}", False) if equals else (argument, True)
        else:
            hide = False
            argument = _SIGNATURE.sub(HIDDEN, _URL_SECRET.sub(f"{HIDDEN}@", argument))
        shown.append(argument)
    return shlex.join(shown).replace(f"'{HIDDEN}'", HIDDEN)


def commit_of(file: pathlib.Path) -> str | None:
    """Return the commit of the git clone that tracks `file`, with a note if files differ from it, or None."""
    folder = file.resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", file.name) is None:
        return None  # not tracked: a clone around it, if any, is another project
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if not commit else f"{commit} with changes" if changed else commit


def _git(folder: pathlib.Path, *arguments: str) -> str | None:
    """Return the output of git, or None if it fails. No hook or monitor of the clone is run."""
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _config_file(command: Sequence[str]) -> pathlib.Path | None:
    """Return the file of `--config=FILE.py:arguments`, if it exists."""
    words = [word for argument in command for word in argument.split("=", 1)]
    for option, value in itertools.pairwise(words):
        file = pathlib.Path(value.partition(":")[0])
        if option == "--config" and file.is_file():
            return file
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
