"""Videos named on a command line, as one source, and the names of their outputs."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from vmae_jax.data import sources
from vmae_jax.data.files import holds_pictures, holds_videos
from vmae_jax.data.frames import Frames, open_frames
from vmae_jax.names import as_text
from vmae_jax.spec import ConfigError

__all__ = ["NAMES", "name_of", "named_videos"]

NAMES = ("stem", "path")

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
        whole = isinstance(one, Frames) or name == "path"
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
    key = getattr(source, "title", None) or getattr(source, "key", None)
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
    pictures = open_frames(item)
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
