"""Videos named on a command line, as one source, and the names of what is made of each."""

import collections
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from vmae_jax.data import sources
from vmae_jax.data.files import holds_videos
from vmae_jax.data.frames import Frames, open_frames
from vmae_jax.spec import ConfigError

__all__ = ["name_of", "named_videos"]


def named_videos(videos: Sequence[str], rate: float) -> tuple[Any, list[str]]:
    """All videos as one source, and a name below OUT for each: its path below what was given, no suffix."""
    opened, names = [], []
    for item, one in [(given, one) for given in videos for one in _opened(given)]:
        root = item.rstrip("/") if "://" in item else os.path.abspath(os.path.expanduser(item))
        base = root if os.path.isdir(root) else os.path.dirname(root)
        whole = isinstance(one, Frames)
        for i in range(len(one)):
            key = one.key(i)
            if not item.endswith(".csv"):
                key = os.path.relpath("/" + key if root.startswith("/") else key, base)
                key = os.path.basename(root) if key == "." else key  # the folder itself is the video
            names.append(key if whole else os.path.splitext(key)[0])
        opened.append(one)
    for name, count in collections.Counter(names).items():
        if count > 1 or ".." in name.split("/"):
            raise ConfigError(f"--videos: {name!r} would be no name of its own in the output; name the folders above")
    return _Joined(opened, rate), names


def name_of(source: Any, index: int) -> str:
    """Return the name of a video in an opened source: its file, its key among records, else its number."""
    key = getattr(source, "key", None)
    try:
        return str(key(index) if key is not None else source.fetch(index).key)
    except (OSError, ValueError):  # a record that cannot be read has no key
        return f"video {index}"


def _opened(item: str) -> list[Any]:
    """The sources of one argument: a list, or the videos and the folders of pictures of a path."""
    if item.endswith(".csv"):
        return [sources.csv(item).open()]
    pictures = open_frames(item)
    if not len(pictures):
        return [sources.paths([item]).open()]
    return [sources.paths([item]).open(), pictures] if holds_videos(item) else [pictures]


class _Joined:
    """Several sources, one after the other."""

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
