"""Videos that were taken apart: folders of pictures, each folder one video."""

import os
import re
from collections.abc import Sequence

from vmae_jax.data.files import expand, is_remote
from vmae_jax.data.video import Encoded
from vmae_jax.names import as_text

__all__ = ["PICTURE_SUFFIXES", "Frames", "open_frames"]

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Frames:
    """A source of folders of pictures (see `sources.Source`), in the order of the numbers in their names."""

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


def open_frames(path: str) -> Frames:
    """Every folder at or below the local folder `path` that holds pictures and no other folder; there may be none."""
    root = expand(path)
    if is_remote(root) or not os.path.isdir(root):
        return Frames(())
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if not folders and any(_pictures(files)):
            found.append(folder)
    return Frames(found)


def _pictures(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")]


def _place(name: str) -> tuple[object, ...]:
    """frame_2 before frame_10."""
    parts = re.split(r"(\d+)", name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts))
