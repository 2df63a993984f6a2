"""Sources of loose files: a folder of videos, and lists in the official formats."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vmae_jax.data.containers import VIDEO_SUFFIXES
from vmae_jax.data.video import BadVideo, Encoded
from vmae_jax.spec import ConfigError

__all__ = ["Files", "open_csv", "open_folder", "open_paths"]

_SUFFIX = "|".join(re.escape(suffix) for suffix in VIDEO_SUFFIXES)
_VIDEO = re.compile(rf"(.*(?:{_SUFFIX}))(?:[\s,]+(.*))?", re.IGNORECASE)
_NUMBERS = re.compile(r"(.*?)((?:[\s,]+-?\d+)*)")
_HEADERS = {"path", "video", "videos", "video_path", "file", "filename", "name", "video_id", "youtube_id", "label"}
_COLUMNS = {1: ("path",), 2: ("path", "label"), 3: ("path", "start", "count"), 4: ("path", "start", "count", "label")}
_PROBES = 16


class _Entry(NamedTuple):
    """One video: a file, or `count` pictures of a folder, numbered from `start`."""

    path: str
    start: int = 0
    count: int = -1
    label: int | None = None


class Files:
    """A source of loose files (see `sources.Source`)."""

    def __init__(
        self, entries: Sequence[_Entry], *, root: str, label_names: tuple[str, ...] = (), pictures: str = ""
    ) -> None:
        self.label_names = label_names
        self._entries = entries
        self._root = root
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._entries)

    def fetch(self, index: int) -> Encoded:
        """The example: a local path, the bytes of a remote file, or the pictures of a folder."""
        entry = self._entries[index]
        if entry.count > 0:
            numbers = range(entry.start, entry.start + entry.count)
            frames = tuple(os.path.join(entry.path, self._pictures.format(number)) for number in numbers)
            return Encoded(frames=frames, label=entry.label, key=self._key(entry))
        if _is_remote(entry.path):
            return Encoded(data=_read_remote(entry.path), label=entry.label, key=self._key(entry))
        return Encoded(path=entry.path, label=entry.label, key=self._key(entry))

    def key(self, index: int) -> str:
        """The name of an example, without fetching it."""
        return self._key(self._entries[index])

    def _key(self, entry: _Entry) -> str:
        return entry.path.removeprefix(self._root).lstrip("/")


def open_paths(paths: Sequence[str]) -> Files:
    """The named files, and every video of the named folders, in that order; see `sources.paths`.

    Raises:
      ConfigError: a path that is not there, or a folder without a video.
    """
    entries: list[_Entry] = []
    for path in paths:
        root = _expand(path)
        if _is_folder(root):
            entries += open_folder(path)._entries
        elif _is_remote(root) or os.path.isfile(root):
            entries.append(_Entry(root))
        else:
            raise ConfigError(f"data source: there is no video or folder {path!r}")
    return Files(entries, root="")


def open_folder(path: str, *, labels: str = "none", part: str = "all", share: float = 0.1) -> Files:
    """Every video file under `path`; see `sources.folder`.

    Raises:
      ConfigError: no such folder, no video in it, or a video outside any class folder.
    """
    root = _expand(path)
    if not _is_folder(root):
        raise ConfigError(f"data source: there is no folder {path!r}")
    found = sorted(_walk(root))
    if not found:
        raise ConfigError(f"data source: no video in {path!r} (looked for {' '.join(VIDEO_SUFFIXES)})")
    chosen = set(found) if part == "all" else _part(found, root, part, share)
    if labels == "none":
        return Files([_Entry(file) for file in found if file in chosen], root=root)
    classes = [os.path.dirname(file)[len(root) :].strip("/").split("/")[0] for file in found]
    if "" in classes:
        raise ConfigError(
            f"data source: labels='folders' needs every video in a folder named after its class; "
            f"{found[classes.index('')]!r} is in none"
        )
    names = tuple(sorted(set(classes)))
    number = {name: label for label, name in enumerate(names)}
    pairs = [(file, name) for file, name in zip(found, classes, strict=True) if file in chosen]
    return Files([_Entry(file, label=number[name]) for file, name in pairs], root=root, label_names=names)


def _part(found: Sequence[str], root: str, part: str, share: float) -> set[str]:
    """The files of one side of the split: those whose names have the smallest digests are held out."""
    if len(found) < 2:
        raise ConfigError(f"data source: one video cannot be split into training and held-out ones, in {root!r}")
    by_digest = sorted(found, key=lambda file: hashlib.sha256(file[len(root) :].encode()).digest())
    count = max(1, round(share * len(found)))
    return set(by_digest[:count] if part == "held_out" else by_digest[count:])


def open_csv(path: str, *, root: str = "", columns: str | None = None, pictures: str = "img_{:05}.jpg") -> Files:
    """The videos of a list; see `sources.csv`.

    Raises:
      ConfigError: no such list, an empty one, or a line that cannot be read (with its number).
    """
    lines = _lines(path)
    names = _columns(columns, [line for _, line in lines])
    base = _expand(root) if root else os.path.dirname(_expand(path))
    rows = [_row(line, names, base, f"{path}, line {number}") for number, line in lines]
    label_names = _label_names([row[3] for row in rows], path, [number for number, _ in lines])
    number_of = {name: str(label) for label, name in enumerate(label_names)}
    entries = [_Entry(*row[:3], _label(number_of.get(row[3] or "", row[3]))) for row in rows]
    _check_present(entries, path, base)
    return Files(entries, root=base + "/", label_names=label_names, pictures=pictures)


class _Line(NamedTuple):
    """The path of a line and the fields after it; not `sure` where numbers may belong to the path."""

    fields: list[str]
    sure: bool


def _lines(path: str) -> list[tuple[int, _Line]]:
    """Every line that is not empty, with its number."""
    try:
        text = _read_text(_expand(path))
    except OSError as error:
        raise ConfigError(f"data source: the list {path!r} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"data source: the list {path!r} is no UTF-8 text ({error})") from error
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or (not found and set(re.split(r"[\s,]+", line.lower())) & _HEADERS and not _VIDEO.fullmatch(line)):
            continue
        found.append((number, _split(line)))
    if not found:
        raise ConfigError(f"data source: the list {path!r} is empty")
    return found


def _split(line: str) -> _Line:
    """A path, which may hold spaces, and the fields after it.

    The path ends at the last video suffix; without one (a folder of pictures), before the
    numbers that end the line. Quotes around it settle the matter.
    """
    match = re.fullmatch(r'"([^"]*)"(?:[\s,]+(.*))?', line) or _VIDEO.fullmatch(line)
    if match:
        rest = (match[2] or "").strip()
        numbers = re.split(r"[\s,]+", rest) if rest else []
        if all(re.fullmatch(r"-?\d+", field) for field in numbers):
            return _Line([match[1], *numbers], True)
        return _Line([match[1], *(part.strip().strip('"') for part in rest.split(","))], True)  # a name may hold spaces
    match = _NUMBERS.fullmatch(line)
    assert match is not None  # both its parts may be empty
    return _Line([match[1], *match[2].replace(",", " ").split()], False)


def _columns(columns: str | None, lines: Sequence[_Line]) -> tuple[str, ...]:
    if columns is None:
        sure = [len(line.fields) for line in lines if line.sure]
        count = max(set(sure), key=sure.count) if sure else min(len(line.fields) for line in lines)
        return _COLUMNS[min(count, 4)]
    names = tuple(columns.replace(",", " ").split())
    if not names or names[0] != "path" or set(names) - {"path", "start", "count", "label"}:
        raise ConfigError(f"columns={columns!r}: it is 'path' and then some of 'start', 'count', 'label'")
    return names


def _row(line: _Line, names: tuple[str, ...], base: str, where: str) -> tuple[str, int, int, str | None]:
    split, extra = line.fields, len(line.fields) - len(names)
    if extra > 0 and not line.sure:  # numbers that belong to the folder's own name
        split = [" ".join(split[: extra + 1]), *split[extra + 1 :]]
    if len(split) != len(names) or not split[0]:
        raise ConfigError(
            f"data source: {where}: {' '.join(split)!r} is not '{' '.join(names)}' as the rest of the list"
        )
    fields = dict(zip(names, split, strict=True))
    try:
        start, count = int(fields.get("start", 0)), int(fields.get("count", -1))
    except ValueError:
        raise ConfigError(f"data source: {where}: {split[1:]} should be {' '.join(names[1:])}, numbers") from None
    if "count" in fields and count == 0:
        raise ConfigError(f"data source: {where}: a folder of 0 pictures (a video has -1)")
    if "count" in fields and "start" not in fields:
        start = 1  # the official picture files count from 1
    return _join(base, fields["path"], where), start, count, fields.get("label")


def _join(base: str, path: str, where: str) -> str:
    if _is_remote(path) or os.path.isabs(path):
        return path
    joined = os.path.join(base, path)
    if not _is_remote(base) and os.path.relpath(joined, base).split(os.sep)[0] == os.pardir:
        raise ConfigError(f"data source: {where}: {path!r} leads out of {base!r}; write it in full if that is meant")
    return joined


def _label_names(labels: Sequence[str | None], path: str, numbers: Sequence[int]) -> tuple[str, ...]:
    given = [label for label in labels if label is not None]
    words = [label for label in given if not re.fullmatch(r"-?\d+", label)]
    if words and len(words) != len(given):
        first = labels.index(words[0])
        raise ConfigError(
            f"data source: {path}, line {numbers[first]}: label {words[0]!r} among labels that are numbers"
        )
    return tuple(sorted(set(words)))


def _label(text: str | None) -> int | None:
    return int(text) if text is not None and int(text) >= 0 else None


def _check_present(entries: Sequence[_Entry], path: str, base: str) -> None:
    """A wrong root shows at once, not as thousands of broken videos."""
    some = entries[:: max(1, len(entries) // _PROBES)][:_PROBES]
    if any(_is_remote(entry.path) or os.path.exists(entry.path) for entry in some):
        return
    raise ConfigError(
        f"data source: of the videos in {path!r} none is there (such as {some[0].path!r}); "
        f"root={base!r} is what relative paths are relative to"
    )


def _walk(root: str) -> Iterator[str]:
    """Video files below `root`; links to folders are followed, once each; hidden names are not."""
    if _is_remote(root):
        yield from _walk_remote(root)
        return
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith("."):
                yield os.path.join(folder, name)


def _expand(path: str) -> str:
    return path.rstrip("/") if _is_remote(path) else os.path.abspath(os.path.expanduser(path))


def _is_remote(path: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]*://", path) is not None


def _is_folder(path: str) -> bool:
    if not _is_remote(path):
        return os.path.isdir(path)
    from etils import epath

    return epath.Path(path).is_dir()


def _walk_remote(root: str) -> Iterator[str]:
    from etils import epath

    for child in epath.Path(root).iterdir():
        if child.name.startswith("."):
            continue
        if child.is_dir():
            yield from _walk_remote(os.fspath(child))
        elif child.name.lower().endswith(VIDEO_SUFFIXES):
            yield os.fspath(child)


def _read_text(path: str) -> str:
    from etils import epath

    return epath.Path(path).read_text()


def _read_remote(path: str) -> bytes:
    from etils import epath

    try:
        return epath.Path(path).read_bytes()
    except OSError as error:
        raise BadVideo(f"cannot be fetched: {error}") from error
