"""Videos named on a command line, as one source, and the names of their outputs."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from vmae_jax.data import sources
from vmae_jax.data.files import expand, holds_pictures, holds_videos, is_remote
from vmae_jax.data.video import PICTURE_SUFFIXES, Encoded
from vmae_jax.names import as_text
from vmae_jax.spec import ConfigError

__all__ = ["NAMES", "name_of", "named_videos"]

NAMES = ("stem", "path")

_PICTURES = (*PICTURE_SUFFIXES, ".bmp")
_LONGEST, _KEPT = 200, 180  # bytes of a name: a file system takes 255, and suffixes are added


def named_videos(
    videos: Sequence[str],
    rate: float,
    name: str = "stem",
    files: Callable[[str], Sequence[str]] = lambda name: [name],
    *,
    images: bool = False,
) -> tuple[Any, list[str]]:
    """Return all videos as one source, and the name of each below OUT: its path below the given folder.

    Args:
      videos: files, folders of videos or pictures, or lists ending in .csv.
      rate: frames per second of folders of pictures.
      name: "stem" removes the suffix of a file, "path" keeps it.
      files: the files that are written for a name.
      images: treat each picture of a folder as a video of one frame, for models of one frame.

    Raises:
      ConfigError: if the same file would be written for two videos, or a file outside of OUT.
    """
    opened, names, paths = [], [], []
    for item, one in [(given, one) for given in videos for one in _opened(given, images)]:
        root = item.rstrip("/") if "://" in item else os.path.abspath(os.path.expanduser(item))
        base = root if os.path.isdir(root) else os.path.dirname(root)
        whole = isinstance(one, _Frames) or name == "path"
        for i in range(len(one)):
            key = one.key(i)
            if not item.endswith(".csv"):
                key = os.path.relpath("/" + key if root.startswith("/") else key, as_text(base))
                key = as_text(os.path.basename(root)) if key == "." else key  # the folder itself is the video
            names.append("/".join(map(_fitting, (key if whole else os.path.splitext(key)[0]).split("/"))))
            paths.append(key)
        opened.append(one)
    _check(names, paths, name, files)
    return _Joined(opened, rate), names


def _check(names: Sequence[str], paths: Sequence[str], how: str, files: Callable[[str], Sequence[str]]) -> None:
    """Raise ConfigError if two videos would be written to the same file, or one outside of the output folder."""
    writer: dict[str, str] = {}
    for name, path in zip(names, paths, strict=True):
        if ".." in name.split("/"):
            raise ConfigError(f"--videos: {path} would be written outside of --out; name a folder that holds it")
        for file in files(name):
            if file in writer:
                same = writer[file] == path
                both = f"two videos named {path}" if same else f"{writer[file]} and {path}"
                option = " or pass --name=path" if how == "stem" and not same else ", or name a folder above both"
                raise ConfigError(f"--videos: {both} would both be written to {file}; rename one{option}")
            writer[file] = path


def _fitting(part: str) -> str:
    """Return a part of a path, shortened and ending in its digest if it is too long for a file name."""
    if len(part.encode()) <= _LONGEST:
        return part
    return part.encode()[:_KEPT].decode(errors="ignore") + "~" + hashlib.sha256(part.encode()).hexdigest()[:16]


def name_of(source: Any, index: int) -> str:
    """Return the name of a video in an opened source: its file or key, or else its number."""
    key = getattr(source, "key", None)
    try:
        return str(key(index) if key is not None else source.fetch(index).key)
    except (OSError, ValueError):  # a record that cannot be read has no key
        return f"video {index}"


def _opened(item: str, images: bool) -> list[Any]:
    """Return the sources of one argument: a list, or the videos and (folders of) pictures below a path."""
    if item.endswith(".csv"):
        return [sources.csv(item).open()]
    if images and holds_pictures(item):
        return [
            sources.paths([item], pictures).open() for pictures in (True, *((False,) if holds_videos(item) else ()))
        ]
    pictures = _frames(item)
    if not len(pictures):
        return [sources.paths([item]).open()]
    return [sources.paths([item]).open(), pictures] if holds_videos(item) else [pictures]


class _Joined:
    """The concatenation of several sources."""

    def __init__(self, parts: Sequence[Any], rate: float) -> None:
        self._rate = rate
        self.label_names: dict[str, tuple[str, ...]] = {}
        self._place = [(part, i) for part in parts for i in range(len(part))]

    def __len__(self) -> int:
        return len(self._place)

    def fetch(self, index: int) -> Any:
        part, i = self._place[index]
        encoded = part.fetch(i)
        return encoded if encoded.frames is None else dataclasses.replace(encoded, rate=self._rate)


class _Frames:
    """A source of folders of pictures (see `source.Source`), in the order of the numbers in their names."""

    def __init__(self, folders: Sequence[str]) -> None:
        self.label_names: dict[str, tuple[str, ...]] = {}
        self._folders = folders

    def __len__(self) -> int:
        return len(self._folders)

    def key(self, index: int) -> str:
        """The folder."""
        return as_text(self._folders[index].lstrip("/"))

    def fetch(self, index: int) -> Encoded:
        """The folder's pictures, not decoded."""
        folder = self._folders[index]
        names = sorted(_pictures(os.listdir(folder)), key=_place)
        return Encoded(frames=tuple(os.path.join(folder, name) for name in names), key=self.key(index))


def _frames(path: str) -> _Frames:
    """Every folder at or below the local folder `path` that holds pictures and no other folder; there may be none."""
    root = expand(path)
    if is_remote(root) or not os.path.isdir(root):
        return _Frames(())
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if not folders and any(_pictures(files)):
            found.append(folder)
    return _Frames(found)


def _pictures(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.lower().endswith(_PICTURES) and not name.startswith(".")]


def _place(name: str) -> tuple[object, ...]:
    """frame_2 before frame_10."""
    parts = re.split(r"(\d+)", name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts))
