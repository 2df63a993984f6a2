"""Folders of numbered pictures, as the owners of benchmarks distribute their frames."""

import os
from collections.abc import Sequence

from vmae_jax.data.listing import Manual

__all__ = ["numbered", "paired"]


def numbered(manual: Manual, folder: str, suffixes: Sequence[str]) -> list[str]:
    """Return the pictures of a folder in the order of the numbers that they are named by.

    Raises:
      ConfigError: if there is no such folder, no picture in it, or one whose name is no number.
    """
    path = manual.need(folder)
    names = [name for name in os.listdir(path) if os.path.splitext(name)[1].lower() in suffixes]
    wrong = [name for name in names if not os.path.splitext(name)[0].isdecimal()]
    if wrong or not names:
        raise manual.error(f"{folder} has {f'{wrong[0]!r}, whose name is no number' if wrong else 'no picture'}")
    return [os.path.join(path, name) for name in sorted(names, key=lambda name: int(os.path.splitext(name)[0]))]


def paired(manual: Manual, frames: Sequence[str], folder: str) -> list[str]:
    """Return the PNG of labels of each frame, which has the frame's number.

    Raises:
      ConfigError: if a frame has none.
    """
    labels = {int(os.path.splitext(os.path.basename(path))[0]): path for path in numbered(manual, folder, (".png",))}
    numbers = [int(os.path.splitext(os.path.basename(path))[0]) for path in frames]
    lacking = [path for path, number in zip(frames, numbers, strict=True) if number not in labels]
    if lacking:
        raise manual.error(f"{folder} has no labels of {os.path.basename(lacking[0])}")
    return [labels[number] for number in numbers]
