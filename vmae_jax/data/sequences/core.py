"""Videos whose every frame is annotated, whole and in order: what label propagation is evaluated on.

A benchmark is a function that is registered as "sequences" and returns a frozen value, which touches no disk before
its `open()`.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vmae_jax.data.stills import open_stills
from vmae_jax.data.video import BadVideo, Limits
from vmae_jax.spec import ConfigError

__all__ = ["TASKS", "Annotated", "Benchmark", "Opened", "label_map", "of_pictures"]

# Objects of a video (numbers of its own), classes (numbers of the dataset), or points.
TASKS = ("objects", "classes", "joints")


@dataclasses.dataclass(frozen=True)
class Annotated:
    """A video with its annotations.

    Attributes:
      key: its name.
      length: frames.
      picture: returns a frame by its number, uint8 [h w 3].
      labels: returns the labels of a frame by its number, uint8 [h w], 0 for the background; None if points are
        annotated.
      points: places in pixels (x, y), the first pixel's centre at 0, [frames points 2]; None if pixels are labelled.
    """

    key: str
    length: int
    picture: Callable[[int], np.ndarray]
    labels: Callable[[int], np.ndarray] | None = None
    points: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Opened:
    """The videos of a benchmark.

    Attributes:
      task: one of TASKS.
      keys: the names of the videos.
      video: returns a video by its number.
      classes: names of the classes, for the task "classes".
    """

    task: str
    keys: Sequence[str]
    video: Callable[[int], Annotated]
    classes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Annotated]:
        return map(self.video, range(len(self.keys)))

    def facts(self) -> dict[str, Any]:
        """Return what must be equal on all hosts."""
        return {"videos": len(self), "names": hashlib.sha256("\n".join(self.keys).encode()).hexdigest()[:12]}


class Benchmark(Protocol):
    """What a function that is registered as "sequences" returns."""

    def open(self) -> Opened:
        """Open the files.

        Raises:
          ConfigError: if a file is missing or malformed.
        """
        ...


def of_pictures(key: str, frames: Sequence[str], masks: Sequence[str] = (), **more: Any) -> Annotated:
    """Return a video of picture files, with a PNG of labels for each if `masks` has them."""

    def picture(number: int) -> np.ndarray:
        try:
            return next(open_stills([frames[number]], rate=None, limits=Limits()).pictures([0], 3))
        except BadVideo as error:
            raise ConfigError(f"{frames[number]}: {error}") from error

    def labels(number: int) -> np.ndarray:
        return label_map(masks[number])

    return Annotated(key, len(frames), picture, labels if masks else None, **more)


def label_map(path: str) -> np.ndarray:
    """Return the numbers of a PNG with a palette or of one channel, uint8 [h w].

    Raises:
      ConfigError: if it is no such file.
    """
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.mode not in ("P", "L") or picture.width * picture.height > Limits().pixels:
                raise ConfigError(f"{path}: a PNG of labels has a palette or one channel of 8 bits, not {picture.mode}")
            return np.asarray(picture)
    except ConfigError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path} cannot be read as a PNG of labels ({error})") from error
