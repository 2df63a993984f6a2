"""Augmentations of a clip on the host, which draw from an explicit seed alone.

A transform is a frozen value, called with the features of one clip ({"video": uint8 [t h w c],
…}) and its seed (two integers); the same seed gives the same result, eagerly and inside
`Dataset.map`. Every frame of a clip is treated alike. A transform that settles the resolution
has `size`; the last such one determines the size of the loader's batches.

Crops and flips are geometry: they give a `View`, in plain Python and NumPy. Others change the colours
of each picture (`Painted`). Where a crop comes first, perhaps after these (`crops.leading`), the process
that decodes carries them out on each frame as it comes, so that no frame travels that is not shown.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vmae_jax.data.order import generator, stream
from vmae_jax.data.scaling import INTERPOLATIONS, View, shown, whole
from vmae_jax.data.tf import tensorflow
from vmae_jax.registry import register

__all__ = [
    "CenterCrop",
    "Flip",
    "Geometric",
    "MultiScaleCrop",
    "RandomResizedCrop",
    "Resize",
    "Transform",
    "ViewCrop",
    "apply",
    "center_crop",
    "flip",
    "multi_scale_crop",
    "output_size",
    "random_resized_crop",
    "resize",
    "view_crop",
]

Features = dict[str, Any]
Transform = Callable[[Features, Any], Features]


@register("transform", smoke={"size": 32})
def multi_scale_crop(size: int = 224, scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66)) -> "MultiScaleCrop":
    """The official VideoMAE pre-training crop (`GroupMultiScaleCrop`), bilinear to `size`.

    Height and width are each one of `scales` of the short side, at most one step apart in the
    list, exactly `size` where within 3 pixels of it; the place is one of 13 fixed ones.
    """
    if not scales or not all(0 < scale <= 1 for scale in scales):
        raise ValueError(f"scales={list(scales)}: each must be above 0 and at most 1")
    return MultiScaleCrop(_side(size), tuple(float(scale) for scale in scales))


@register("transform", smoke={"size": 32})
def random_resized_crop(
    size: int = 224,
    area: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (0.75, 1.3333333333333333),
    interpolation: str = "bilinear",
) -> "RandomResizedCrop":
    """A crop of a random share of the area and a random aspect ratio, scaled to `size`.

    As the official fine-tuning: ten tries of a crop that fits, else the largest centred one
    within `ratio`. `interpolation` is "bilinear", "exact_bilinear" (Pillow's to the last bit, and slower) or "bicubic".
    """
    if not (len(area) == len(ratio) == 2 and 0 < area[0] <= area[1] <= 1 and 0 < ratio[0] <= ratio[1]):
        raise ValueError(f"area={list(area)}, ratio={list(ratio)}: each is (smallest, largest), areas within 0 to 1")
    bounds = (float(area[0]), float(area[1])), (float(ratio[0]), float(ratio[1]))
    return RandomResizedCrop(_side(size), *bounds, _known(interpolation))


@register("transform", smoke={"size": 32})
def center_crop(size: int = 224, short_side: int | None = None, interpolation: str = "bilinear") -> "CenterCrop":
    """The short side to `short_side` (by default `size`), then the `size` square in the middle.

    `interpolation` is as in `random_resized_crop`.
    """
    if short_side is not None and short_side < size:
        raise ValueError(f"short_side={short_side} is smaller than size={size}")
    return CenterCrop(_side(size), short_side or size, _known(interpolation))


@register("transform", smoke={"size": 32})
def resize(size: int = 224) -> "Resize":
    """The whole picture to a `size` square, whatever its shape was."""
    return Resize(_side(size))


@register("transform", smoke={"size": 32})
def view_crop(size: int = 224, crops: int = 3) -> "ViewCrop":
    """Testing: one of `crops` squares spread evenly along the long side, by the number of the loader's repeat.

    As the official test: the short side to `size`, crop k begins at int(k * room / (crops - 1)).
    A loader with repeat=crops sees every crop of every view once; crops=1 is the middle.
    """
    if crops < 1:
        raise ValueError(f"crops={crops}: it must be at least 1")
    return ViewCrop(_side(size), crops)


@register("transform")
def flip(probability: float = 0.5) -> "Flip":
    """The clip mirrored left to right, with this probability."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability}: it is between 0 and 1")
    return Flip(probability)


class Geometric:
    """A transform that gives the part of the picture to show, and leaves the pixels to `scaling`.

    The decoding worker uses `view` alone; called, it does the same to frames, eagerly and inside `Dataset.map`.
    """

    def view(self, height: int, width: int, *, seed: np.ndarray, repeat: int = 0) -> View:
        """What is shown of pictures of this size."""
        raise TypeError(f"{type(self).__name__} has no view")

    def __call__(self, features: Features, seed: Any) -> Features:
        tf = tensorflow()
        video = tf.convert_to_tensor(features["video"])

        def show(frames: np.ndarray, words: np.ndarray, repeat: np.ndarray) -> np.ndarray:
            return shown(frames, self.view(*frames.shape[1:3], seed=words, repeat=int(repeat)))

        arguments = [video, tf.cast(seed, tf.int64), features.get("repeat", 0)]
        out = tf.ensure_shape(
            tf.numpy_function(show, arguments, tf.uint8), [video.shape[0], None, None, video.shape[3]]
        )
        if size := getattr(self, "size", None):
            out = tf.ensure_shape(out, [None, size, size, None])
        return features | {"video": out}


Painter = Callable[[np.ndarray], np.ndarray]  # a picture uint8 [h w c] to another of the same size


class Painted:
    """A transform that changes pictures one by one, those of a clip alike, and leaves their size as it is."""

    def painter(self, seed: np.ndarray) -> Painter:
        """What is done to each picture of a clip."""
        raise TypeError(f"{type(self).__name__} has no painter")

    def __call__(self, features: Features, seed: Any) -> Features:
        tf = tensorflow()
        video = tf.convert_to_tensor(features["video"])

        def paint(frames: np.ndarray, words: np.ndarray) -> np.ndarray:
            return np.stack([*map(self.painter(words), frames)])

        painted = tf.numpy_function(paint, [video, tf.cast(seed, tf.int64)], tf.uint8)
        return features | {"video": tf.ensure_shape(painted, video.shape)}


@dataclasses.dataclass(frozen=True)
class MultiScaleCrop(Geometric):
    """See `multi_scale_crop`."""

    size: int
    scales: tuple[float, ...]

    def view(self, height: int, width: int, *, seed: np.ndarray, repeat: int = 0) -> View:
        draw, short = generator(seed), min(height, width)
        sides = [int(short * scale) for scale in self.scales]
        sides = [min(self.size if abs(side - self.size) < 3 else side, short) for side in sides]  # PIL would pad
        pairs = [(i, j) for i in range(len(sides)) for j in range(len(sides)) if abs(i - j) <= 1]
        tall, wide = (sides[step] for step in pairs[draw.integers(len(pairs))])
        down, across = _PLACES[draw.integers(len(_PLACES))]
        top, left = down * ((height - tall) // 4), across * ((width - wide) // 4)
        return View(top, left, tall, wide, self.size, self.size)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(Geometric):
    """See `random_resized_crop`."""

    size: int
    area: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: str = "bilinear"

    def view(self, height: int, width: int, *, seed: np.ndarray, repeat: int = 0) -> View:
        draw = generator(seed)
        area = height * width * draw.uniform(*self.area, size=_TRIES)
        ratio = np.exp(draw.uniform(math.log(self.ratio[0]), math.log(self.ratio[1]), size=_TRIES))
        sides = np.rint(np.sqrt([area / ratio, area * ratio])).astype(int)
        place = draw.uniform(size=2)
        fits = ((sides > 0) & (sides <= [[height], [width]])).all(axis=0)
        if fits.any():
            tall, wide = sides[:, np.argmax(fits)].tolist()
            top, left = int(place[0] * (height - tall + 1)), int(place[1] * (width - wide + 1))
        else:
            bounded = min(max(width / height, self.ratio[0]), self.ratio[1])
            tall, wide = round(min(height, width / bounded)), round(min(width, height * bounded))
            top, left = (height - tall) // 2, (width - wide) // 2
        return View(top, left, tall, wide, self.size, self.size, interpolation=self.interpolation)


@dataclasses.dataclass(frozen=True)
class CenterCrop(Geometric):
    """See `center_crop`."""

    size: int
    short_side: int
    interpolation: str = "bilinear"

    def view(self, height: int, width: int, *, seed: np.ndarray, repeat: int = 0) -> View:
        rows, columns = _short_side(height, width, self.short_side)
        top, left = round((rows - self.size) / 2), round((columns - self.size) / 2)
        window = (top, left, self.size, self.size)
        return View(0, 0, height, width, rows, columns, window, interpolation=self.interpolation)


@dataclasses.dataclass(frozen=True)
class ViewCrop(Geometric):
    """See `view_crop`."""

    size: int
    crops: int

    def view(self, height: int, width: int, *, seed: np.ndarray, repeat: int = 0) -> View:
        if self.crops == 1:
            return center_crop(self.size).view(height, width, seed=seed)
        rows, columns = _short_side(height, width, self.size)
        # In whole numbers: a quotient such as 2 * (32 / 2) may fall just below one.
        top, left = ((side - self.size) * (repeat % self.crops) // (self.crops - 1) for side in (rows, columns))
        return View(0, 0, height, width, rows, columns, (top, left, self.size, self.size))


@dataclasses.dataclass(frozen=True)
class Resize(Geometric):
    """See `resize`."""

    size: int

    def view(self, height: int, width: int, *, seed: np.ndarray, repeat: int = 0) -> View:
        return View(0, 0, height, width, self.size, self.size)


@dataclasses.dataclass(frozen=True)
class Flip(Geometric):
    """See `flip`."""

    probability: float

    def view(self, height: int, width: int, *, seed: np.ndarray, repeat: int = 0) -> View:
        return whole(height, width, mirrored=bool(generator(seed).uniform() < self.probability))


def apply(transforms: Sequence[Transform], features: Features, seed: Any, *, first: int = 0) -> Features:
    """All transforms in turn, each with a random stream of its own; `first` is the number of the first."""
    seed = tensorflow().cast(seed, "int64")
    for number, transform in enumerate(transforms, first):
        features = transform(features, stream(seed, number))
    return features


def output_size(transforms: Sequence[Transform]) -> int | None:
    """The side of the square that comes out; None when no transform settles it."""
    sizes = [size for transform in transforms if (size := getattr(transform, "size", None)) is not None]
    return sizes[-1] if sizes else None


# (down, across) in quarters of the room: corners, middle, middles of the sides, middles of the quarters.
_PLACES = (
    *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)),
    *((2, 0), (2, 4), (4, 2), (0, 2)),
    *((1, 1), (1, 3), (3, 1), (3, 3)),
)
_TRIES = 10


def _short_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width when the shorter is `side`; the longer cut off, as the official resize does."""
    short = min(height, width)
    rows, columns = (side if length == short else int(length * side / short) for length in (height, width))
    return rows, columns


def _known(interpolation: str) -> str:
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation={interpolation!r}: it must be one of {', '.join(map(repr, INTERPOLATIONS))}")
    return interpolation


def _side(size: int) -> int:
    if size < 1:
        raise ValueError(f"size={size}: it must be at least 1")
    return size
