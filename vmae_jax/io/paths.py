"""The files of a run, on a disk or in a bucket.

A bucket (gs://) has neither append nor rename: an object is written completely or not at all. Text is therefore
written through a rename on a disk and directly in a bucket, and a growing log is one file on a disk and a folder of
parts in a bucket, of which only the last is rewritten.
"""

import dataclasses
import os
import re
import uuid
from collections.abc import Callable, Iterable

from etils import epath

__all__ = ["Log", "Workdir", "absolute", "in_bucket", "move", "read_lines", "saved_config", "write_bytes", "write_text"]

PART_BYTES = 256 * 1024  # maximum size of a part, the last of which is uploaded again at each flush


@dataclasses.dataclass(frozen=True)
class Workdir:
    """The layout of a run's folder."""

    path: epath.Path

    def __init__(self, path: epath.PathLike):
        object.__setattr__(self, "path", absolute(path))

    @property
    def name(self) -> str:
        """The run's name: the last part of its path."""
        return self.path.name or str(self.path)

    @property
    def config_json(self) -> epath.Path:
        return self.path / "config.json"

    @property
    def plugins_json(self) -> epath.Path:
        """The packages of the user that the config names."""
        return self.path / "plugins.json"

    @property
    def overview(self) -> epath.Path:
        """The whole configuration and the table of parameters."""
        return self.path / "overview.txt"

    @property
    def environment(self) -> epath.Path:
        """Command line, commit, versions and devices, one line per start."""
        return self.path / "environment.jsonl"

    @property
    def init_from(self) -> epath.Path:
        """The source of every array of the initial state."""
        return self.path / "init_from.json"

    @property
    def metrics(self) -> epath.Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> epath.Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> epath.Path:
        return self.path / "tensorboard"

    @property
    def media(self) -> epath.Path:
        return self.path / "media"

    @property
    def quarantine(self) -> epath.Path:
        return self.path / "quarantine.jsonl"

    @property
    def skipped(self) -> epath.Path:
        """The skipped windows of data, one per line."""
        return self.path / "skipped.jsonl"

    @property
    def report(self) -> epath.Path:
        return self.path / "report.html"


class Log:
    """A text file that grows by whole lines.

    On a disk, lines are appended, flushed and synced. In a bucket, `PATH` is a folder of parts
    (`part-00000.jsonl`, …), each an object of up to 256 KiB; the last one is replaced by a longer
    version at each flush. Lines that could not be written are kept for the next flush.

    Args:
      path: the file.
    """

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)
        self._bucket = in_bucket(self.path)
        self._waiting: list[str] = []
        self._part: list[str] = []  # the lines of the last part in the bucket
        self._number = self._next()  # of the part that comes next, or grows

    def append(self, lines: Iterable[str]) -> None:
        """Add lines (without line ends); `flush` writes them."""
        self._waiting.extend(lines)

    def flush(self) -> None:
        """Write the added lines; return once they are on the disk or in the bucket.

        Raises:
          OSError: if they could not be written; they are kept for the next flush.
        """
        if not self._waiting:
            return
        if self._bucket:
            self._upload()
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _end_torn_line(self.path)
            _append(self.path, _joined(self._waiting).encode())
        self._waiting.clear()

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Drop the written lines that are not `wanted`; a kill in between may leave some of them."""
        self.flush()
        for file in reversed(_files(self.path)):
            lines = _whole_lines(file)
            kept = [line for line in lines if wanted(line)]
            if not kept and self._bucket:
                file.unlink()
            elif len(kept) < len(lines):
                write_text(file, _joined(kept))
        self._part, self._number = [], self._next()

    def lines(self) -> list[str]:
        """Return the lines written so far, without torn or empty ones."""
        return read_lines(self.path)

    def _upload(self) -> None:
        lines = self._part + self._waiting
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / f"part-{self._number:05d}.jsonl", _joined(lines))
        full = sum(map(len, lines)) >= PART_BYTES
        self._part, self._number = ([], self._number + 1) if full else (lines, self._number)

    def _next(self) -> int:
        names = [file.name for file in _files(self.path)] if self._bucket else []
        return 1 + max((int(name[len("part-") : -len(".jsonl")]) for name in names), default=-1)


def absolute(path: epath.PathLike) -> epath.Path:
    """Return an absolute path: Orbax takes no other, and a process may change its folder."""
    path = epath.Path(path)
    return path if in_bucket(path) else epath.Path(os.path.abspath(os.path.expanduser(os.fspath(path))))


def saved_config(path: epath.PathLike) -> str | None:
    """Return the text of `config.json` of a workdir, or of the workdir of a checkpoint, or None."""
    folder = absolute(path)
    folder = folder.parent if folder.name.isdecimal() else folder
    file = Workdir(folder.parent if folder.name == "checkpoints" else folder).config_json
    return file.read_text() if file.exists() else None


def in_bucket(path: epath.PathLike) -> bool:
    """Whether a path is gs:// or the like, without append and rename."""
    return "://" in os.fspath(epath.Path(path))


def move(folder: epath.Path, target: epath.Path, *, first: Iterable[str] = ()) -> None:
    """Move a folder: by a rename on a disk; in a bucket by copying all objects before deleting any.

    Args:
      folder: may be half-deleted already.
      target: must not exist; its parent is created.
      first: files below `folder` that are deleted first in a bucket, so that a kill in between leaves a folder
        that does not count as complete.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not in_bucket(folder):
        folder.rename(target)
        return
    files = list(_objects(folder))
    for file in files:
        copy = target / os.path.relpath(os.fspath(file), os.fspath(folder))
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    leading = [folder / name for name in first]
    for file in sorted(files, key=lambda file: file not in leading):
        file.unlink()
    if folder.exists():
        folder.rmtree()  # markers of empty folders, if the store has any


def _objects(folder: epath.Path) -> Iterable[epath.Path]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _objects(entry)
        else:
            yield entry


def read_lines(path: epath.PathLike) -> list[str]:
    """Return the complete lines of a `Log`, without line ends; [] if there is no such file.

    A torn last line is left out.
    """
    return [line for file in _files(epath.Path(path)) for line in _whole_lines(file)]


def write_text(path: epath.PathLike, text: str) -> epath.Path:
    """Write a file atomically, and create its folder."""
    return write_bytes(path, text.encode())


def write_bytes(path: epath.PathLike, content: bytes) -> epath.Path:
    """As `write_text`, for bytes.

    Raises:
      OSError: if it could not be written; an earlier file is unchanged.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if in_bucket(path):
        path.write_bytes(content)
        return path
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(os.fspath(temporary), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(os.fspath(temporary), os.fspath(path))
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _files(path: epath.Path) -> list[epath.Path]:
    """Return the files of the log `path`, in order."""
    if in_bucket(path):
        files = list(path.iterdir()) if path.is_dir() else []
        return sorted(file for file in files if re.fullmatch(r"part-\d{5}\.jsonl", file.name))
    return [path] if path.exists() else []


def _whole_lines(file: epath.Path) -> list[str]:
    text = file.read_bytes().decode("utf-8", errors="replace")
    return [line for line in text[: text.rfind("\n") + 1].split("\n") if line.strip()]


def _append(path: epath.Path, content: bytes) -> None:
    """Append all of `content` or nothing: half of it would be duplicated by the next try."""
    with open(os.fspath(path), "ab", buffering=0) as file:
        start = file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(content):
                written += file.write(content[written:]) or 0
            os.fsync(file.fileno())
        except OSError:
            file.truncate(start)
            raise


def _end_torn_line(path: epath.Path) -> None:
    """Remove an unfinished last line, left by a kill, so that it does not run into the next one."""
    if not path.exists():
        return
    with open(os.fspath(path), "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        size = min(end, 1 << 20)
        file.seek(end - size)
        file.truncate(end - size + file.read(size).rfind(b"\n") + 1)
