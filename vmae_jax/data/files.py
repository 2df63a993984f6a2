"""Sources of loose files: a folder of videos, and lists in the official formats."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vmae_jax.data.faults import Missing
from vmae_jax.data.labels import read_names
from vmae_jax.data.video import PICTURE_SUFFIXES, VIDEO_SUFFIXES, BadVideo, Encoded, Kind, Side, unsupported
from vmae_jax.names import as_text
from vmae_jax.spec import ConfigError, did_you_mean

__all__ = ["Entry", "Files", "expand", "holds_videos", "is_remote", "open_folder", "open_paths", "walk"]


FEATURES = (".npz",)  # of `vmae features`
# A black pixel as PNG, the picture of an example that is no video.
_BLANK = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415478da63606060000000040001c8"
    "eaebf90000000049454e44ae426082"
)
_REMOTE = 8 << 20  # bytes of a remote video, which nobody knows before it is fetched


class Entry(NamedTuple):
    """One video: a file (a picture is a video of one frame), or `count` pictures of a folder from number `start`."""

    path: str
    start: int = 0
    count: int = -1
    labels: Mapping[str, Any] = {}


class Files:
    """A source of loose files (see `source.Source`)."""

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        root: str,
        label_names: Mapping[str, tuple[str, ...]] | None = None,
        pictures: str = "",
        refused: Sequence[tuple[str, Kind, str]] = (),
        missing: Missing | None = None,
    ) -> None:
        self.label_names = label_names or {}
        self.refused = refused  # (key, kind, reason) of files that are not among the videos
        self.missing = missing
        self.record_bytes = _REMOTE if any(is_remote(entry.path) for entry in entries) else 0
        self._entries = entries
        self._root = root
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._entries)

    def fetch(self, index: int) -> Encoded:
        """The example: a local path, the bytes of a remote file, a picture, the pictures of a folder, or features."""
        entry = self._entries[index]
        more: dict[str, Any] = {"labels": dict(entry.labels), "key": self._key(entry)}
        if entry.count > 0:
            numbers = range(entry.start, entry.start + entry.count)
            frames = tuple(os.path.join(entry.path, self._pictures.format(number)) for number in numbers)
            return Encoded(frames=frames, **more)
        name, remote = entry.path.lower(), is_remote(entry.path)
        stored = _read_remote(entry.path) if remote else entry.path
        if name.endswith(PICTURE_SUFFIXES):
            return Encoded(frames=(stored,), **more)
        where: dict[str, Any] = {"data" if remote else "path": stored}
        if name.endswith(FEATURES):
            return Encoded(frames=(_BLANK,), sides={"embeddings": Side(**where)}, **more)
        return Encoded(**where, **more)

    def key(self, index: int) -> str:
        """The name of an example, without fetching it."""
        return self._key(self._entries[index])

    def labels(self, index: int) -> Mapping[str, Any]:
        """The labels of an example, without fetching it."""
        return self._entries[index].labels

    def size(self, index: int) -> int:
        """The bytes of a local video file; -1 of anything else, or when it is not there."""
        entry = self._entries[index]
        if entry.count > 0 or is_remote(entry.path) or not os.path.exists(entry.path):
            return -1
        return os.path.getsize(entry.path)

    def files(self) -> list[str]:
        """The local files in the order of the videos; the first picture of a folder of pictures."""
        return [
            os.path.join(entry.path, self._pictures.format(entry.start)) if entry.count > 0 else entry.path
            for entry in self._entries
            if not is_remote(entry.path)
        ]

    def subset(self, indices: Sequence[int]) -> "Files":
        """Some of the videos, as a source of their own."""
        entries = [self._entries[index] for index in indices]
        return Files(entries, root=self._root, label_names=self.label_names, pictures=self._pictures)

    def _key(self, entry: Entry) -> str:
        return _key(entry.path, self._root)


def holds_videos(path: str) -> bool:
    """Whether `path` is a video, or a folder with one in it or below."""
    root = expand(path)
    return next(walk(root), None) is not None if _is_folder(root) else root.lower().endswith(VIDEO_SUFFIXES)


def holds_pictures(path: str) -> bool:
    """Whether `path` is a folder with a picture in it or below."""
    root = expand(path)
    return _is_folder(root) and any(file.lower().endswith(PICTURE_SUFFIXES) for file in _walk(root))


def open_paths(paths: Sequence[str], *, pictures: bool = False) -> Files:
    """The named files, and every video (or picture) of the named folders, in that order; see `sources.paths`.

    Raises:
      ConfigError: a path that is not there, or a folder without a video.
    """
    entries: list[Entry] = []
    refused: list[tuple[str, Kind, str]] = []
    for path in paths:
        root = expand(path)
        if _is_folder(root):
            found = open_folder(path, pictures=pictures)
            entries += found._entries
            refused.extend((f"{as_text(root)}/{key}", kind, reason) for key, kind, reason in found.refused)
        elif is_remote(root) or os.path.isfile(root):
            entries.append(Entry(root))
        else:
            raise ConfigError(f"data source: there is no video or folder {path!r}")
    return Files(entries, root="", refused=refused)


def open_folder(
    path: str,
    *,
    labels: str = "none",
    part: str = "all",
    share: float = 0.1,
    names: str | None = None,
    pictures: bool = False,
    features: bool = False,
) -> Files:
    """Every video file under `path`, or with `pictures` every picture, or with `features` every file of features.

    See `sources.folder`, `sources.images` and `sources.embeddings`.

    Raises:
      ConfigError: no such folder, no video in it, a video outside any class folder, or in one that `names` lacks.
    """
    root = expand(path)
    if not _is_folder(root):
        if os.path.isfile(expand(path)):
            raise ConfigError(
                f"data source: {path!r} is a file; name its folder, or use data.sources.csv for a list of videos"
            )
        raise ConfigError(f"data source: there is no folder {path!r}")
    every = sorted(_walk(root))
    suffixes = FEATURES if features else PICTURE_SUFFIXES if pictures else VIDEO_SUFFIXES
    found = [file for file in every if file.lower().endswith(suffixes)]
    refused: list[tuple[str, Kind, str]] = [
        (_key(file, root), "unsupported", why)
        for file in every
        if not (pictures or features) and (why := unsupported(file))
    ]
    if not found:
        what = "file of features" if features else "picture" if pictures else "video"
        raise ConfigError(f"data source: no {what} in {path!r} (looked for {' '.join(suffixes)})")
    chosen = set(found) if part == "all" else _part(found, root, part, share)
    if labels == "none":
        return Files([Entry(file) for file in found if file in chosen], root=root, refused=refused)
    classes = [as_text(os.path.dirname(file)[len(root) :].strip("/").split("/")[0]) for file in found]
    if "" in classes:
        raise ConfigError(
            f"data source: labels='folders' needs every video in a folder named after its class; "
            f"{found[classes.index('')]!r} is in none"
        )
    known = read_names(names) if names else tuple(sorted(set(classes)))
    number = {name: i for i, name in enumerate(known)}
    for file, name in zip(found, classes, strict=True):
        if name not in number:
            raise ConfigError(f"data source: {file!r}: unknown label {name!r}{did_you_mean(name, known)}")
    pairs = [(file, name) for file, name in zip(found, classes, strict=True) if file in chosen]
    return Files([Entry(file, labels={"label": number[name]}) for file, name in pairs], root=root,
                 label_names={"label": known}, refused=refused)  # fmt: skip


def _key(path: str, root: str) -> str:
    """The name of a file for people: its path below the folder that holds it, or its whole path."""
    below = root.strip("/") and path.startswith(root)
    return as_text(path.removeprefix(root).lstrip("/") if below else path)


def _part(found: Sequence[str], root: str, part: str, share: float) -> set[str]:
    """The files of one side of the split: those whose names have the smallest digests are held out."""
    if len(found) < 2:
        raise ConfigError(f"data source: one video cannot be split into training and held-out ones, in {root!r}")
    by_digest = sorted(found, key=lambda file: hashlib.sha256(os.fsencode(file[len(root) :])).digest())
    count = max(1, round(share * len(found)))
    return set(by_digest[:count] if part == "held_out" else by_digest[count:])


def walk(root: str) -> Iterator[str]:
    """Video files below `root`; links to folders are followed, once each; hidden names are not."""
    return filter(_is_video, _walk(root))


def _is_video(path: str) -> bool:
    return path.lower().endswith(VIDEO_SUFFIXES)


def _walk(root: str) -> Iterator[str]:
    if is_remote(root):
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
            if not name.startswith("."):
                yield os.path.join(folder, name)


def expand(path: str) -> str:
    return path.rstrip("/") if is_remote(path) else os.path.abspath(os.path.expanduser(path))


def is_remote(path: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]*://", path) is not None


def _is_folder(path: str) -> bool:
    if not is_remote(path):
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
        else:
            yield os.fspath(child)


def _read_remote(path: str) -> bytes:
    from etils import epath

    try:
        return epath.Path(path).read_bytes()
    except OSError as error:
        raise BadVideo(f"cannot be fetched: {error}") from error
