"""Augmentations of a clip on the host: TensorFlow ops that draw from an explicit seed alone.

A transform is a frozen value, called with the features of one clip ({"video": uint8 [t h w c],
…}) and its seed (two integers); the same seed gives the same result, eagerly and inside
`Dataset.map`. Every frame of a clip is treated alike. A transform that settles the resolution
has `size`; the last such one says what the loader's batches measure.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

__all__ = [
    "CenterCrop",
    "Flip",
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


def multi_scale_crop(size: int = 224, scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66)) -> "MultiScaleCrop":
    """The official VideoMAE pre-training crop (`GroupMultiScaleCrop`), bilinear to `size`.

    Height and width are each one of `scales` of the short side, at most one step apart in the
    list, exactly `size` where within 3 pixels of it; the place is one of 13 fixed ones.
    """
    if not scales or not all(0 < scale <= 1 for scale in scales):
        raise ValueError(f"scales={list(scales)}: each must be above 0 and at most 1")
    return MultiScaleCrop(_side(size), tuple(float(scale) for scale in scales))


def random_resized_crop(
    size: int = 224, area: Sequence[float] = (0.08, 1.0), ratio: Sequence[float] = (0.75, 1.3333333333333333)
) -> "RandomResizedCrop":
    """A crop of a random share of the area and a random aspect ratio, bilinear to `size`.

    As the official fine-tuning: ten tries of a crop that fits, else the largest centred one
    within `ratio`.
    """
    if not (len(area) == len(ratio) == 2 and 0 < area[0] <= area[1] <= 1 and 0 < ratio[0] <= ratio[1]):
        raise ValueError(f"area={list(area)}, ratio={list(ratio)}: each is (smallest, largest), areas within 0 to 1")
    return RandomResizedCrop(_side(size), (float(area[0]), float(area[1])), (float(ratio[0]), float(ratio[1])))


def center_crop(size: int = 224, short_side: int | None = None) -> "CenterCrop":
    """The short side to `short_side` (by default `size`), then the `size` square in the middle."""
    if short_side is not None and short_side < size:
        raise ValueError(f"short_side={short_side} is smaller than size={size}")
    return CenterCrop(_side(size), short_side or size)


def resize(size: int = 224) -> "Resize":
    """The whole picture to a `size` square, whatever its shape was."""
    return Resize(_side(size))


def view_crop(size: int = 224, crops: int = 3) -> "ViewCrop":
    """Testing: one of `crops` squares spread evenly along the long side, the loader's repeat says which.

    As the official test: the short side to `size`, crop k begins at int(k * room / (crops - 1)).
    A loader with repeat=crops sees every crop of every view once; crops=1 is the middle.
    """
    if crops < 1:
        raise ValueError(f"crops={crops}: it must be at least 1")
    return ViewCrop(_side(size), crops)


def flip(probability: float = 0.5) -> "Flip":
    """The clip mirrored left to right, with this probability."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability}: it is between 0 and 1")
    return Flip(probability)


@dataclasses.dataclass(frozen=True)
class MultiScaleCrop:
    """See `multi_scale_crop`."""

    size: int
    scales: tuple[float, ...]

    def __call__(self, features: Features, seed: Any) -> Features:
        tf = _tf()
        video = features["video"]
        height, width = tf.shape(video)[1], tf.shape(video)[2]
        short = tf.cast(tf.minimum(height, width), tf.float64)
        sides = tf.cast(short * tf.constant(self.scales, tf.float64), tf.int32)  # cut off, as int() does
        sides = tf.where(tf.abs(sides - self.size) < 3, self.size, sides)
        sides = tf.minimum(sides, tf.minimum(height, width))  # PIL would pad with black
        steps = range(len(self.scales))
        pairs = tf.constant([(i, j) for i in steps for j in steps if abs(i - j) <= 1])
        pair = pairs[_below(len(pairs), seed, 0)]
        crop_height, crop_width = sides[pair[0]], sides[pair[1]]
        down, across = tf.unstack(tf.constant(_PLACES)[_below(len(_PLACES), seed, 1)])
        top = down * ((height - crop_height) // 4)
        left = across * ((width - crop_width) // 4)
        crop = video[:, top : top + crop_height, left : left + crop_width]
        return features | {"video": _scaled(crop, (self.size, self.size))}


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """See `random_resized_crop`."""

    size: int
    area: tuple[float, float]
    ratio: tuple[float, float]

    def __call__(self, features: Features, seed: Any) -> Features:
        tf = _tf()
        video = features["video"]
        height, width = tf.shape(video)[1], tf.shape(video)[2]
        h, w = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        area = h * w * tf.random.stateless_uniform([10], _stream(seed, 0), *self.area)
        logs = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = tf.exp(tf.random.stateless_uniform([10], _stream(seed, 1), *logs))
        widths = tf.cast(tf.round(tf.sqrt(area * ratio)), tf.int32)
        heights = tf.cast(tf.round(tf.sqrt(area / ratio)), tf.int32)
        fits = (widths > 0) & (heights > 0) & (widths <= width) & (heights <= height)
        first = tf.argmax(tf.cast(fits, tf.int32))
        bounded = tf.clip_by_value(w / h, *self.ratio)
        centred = tf.stack([tf.minimum(h, w / bounded), tf.minimum(w, h * bounded)])
        drawn = tf.stack([heights[first], widths[first]])
        crop = tf.where(tf.reduce_any(fits), drawn, tf.cast(tf.round(centred), tf.int32))
        room = tf.stack([height, width]) - crop
        place = tf.random.stateless_uniform([2], _stream(seed, 2)) * tf.cast(room + 1, tf.float32)
        top, left = tf.unstack(tf.where(tf.reduce_any(fits), tf.minimum(tf.cast(place, tf.int32), room), room // 2))
        crop = video[:, top : top + crop[0], left : left + crop[1]]
        return features | {"video": _scaled(crop, (self.size, self.size))}


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """See `center_crop`."""

    size: int
    short_side: int

    def __call__(self, features: Features, seed: Any) -> Features:
        del seed
        tf = _tf()
        video = features["video"]
        sides = tf.shape(video)[1:3]
        long = tf.cast(
            tf.cast(sides, tf.float64) * self.short_side / tf.cast(tf.reduce_min(sides), tf.float64), tf.int32
        )
        sides = tf.where(sides == tf.reduce_min(sides), self.short_side, long)  # cut off, as the official resize
        video = _scaled(video, sides)
        top, left = tf.unstack(tf.cast(tf.round((sides - self.size) / 2), tf.int32))
        video = video[:, top : top + self.size, left : left + self.size]
        return features | {"video": tf.ensure_shape(video, [None, self.size, self.size, None])}


@dataclasses.dataclass(frozen=True)
class ViewCrop:
    """See `view_crop`."""

    size: int
    crops: int

    def __call__(self, features: Features, seed: Any) -> Features:
        if self.crops == 1:
            return center_crop(self.size)(features, seed)
        tf = _tf()
        video = features["video"]
        sides = tf.shape(video)[1:3]
        short = tf.cast(tf.reduce_min(sides), tf.float64)
        long = tf.cast(tf.cast(sides, tf.float64) * self.size / short, tf.int32)
        video = _scaled(video, tf.where(sides == tf.reduce_min(sides), self.size, long))
        number = tf.cast(features["repeat"], tf.int32) % self.crops
        # In whole numbers: a quotient such as 2 * (32 / 2) may fall just below one.
        top, left = tf.unstack((tf.shape(video)[1:3] - self.size) * number // (self.crops - 1))
        video = video[:, top : top + self.size, left : left + self.size]
        return features | {"video": tf.ensure_shape(video, [None, self.size, self.size, None])}


@dataclasses.dataclass(frozen=True)
class Resize:
    """See `resize`."""

    size: int

    def __call__(self, features: Features, seed: Any) -> Features:
        del seed
        return features | {"video": _scaled(features["video"], (self.size, self.size))}


@dataclasses.dataclass(frozen=True)
class Flip:
    """See `flip`."""

    probability: float

    def __call__(self, features: Features, seed: Any) -> Features:
        tf = _tf()
        video = features["video"]
        mirrored = tf.random.stateless_uniform([], _stream(seed, 0)) < self.probability
        return features | {"video": tf.cond(mirrored, lambda: tf.reverse(video, [2]), lambda: video)}


def apply(transforms: Sequence[Transform], features: Features, seed: Any) -> Features:
    """All transforms in turn, each with a random stream of its own."""
    for number, transform in enumerate(transforms):
        features = transform(features, _stream(seed, 1000 + number))
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


def _tf() -> Any:
    from vmae_jax.data.tf import tensorflow

    return tensorflow()


def _stream(seed: Any, number: int) -> Any:
    """An independent seed of a transform's own."""
    tf = _tf()
    return tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), number)


def _below(limit: int, seed: Any, number: int) -> Any:
    return _tf().random.stateless_uniform([], _stream(seed, number), 0, limit, _tf().int32)


def _scaled(video: Any, sides: Any) -> Any:
    """Bilinear with antialiasing, as PIL: what is shrunk is averaged; uint8 [t h w c]."""
    tf = _tf()
    same = tf.reduce_all(tf.shape(video)[1:3] == sides)

    def scale() -> Any:
        scaled = tf.image.resize(video, sides, method="bilinear", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(scaled), 0, 255), tf.uint8)

    scaled = tf.cond(same, lambda: video, scale)
    if isinstance(sides, tuple):
        scaled = tf.ensure_shape(scaled, [None, *sides, None])
    return scaled


def _side(size: int) -> int:
    if size < 1:
        raise ValueError(f"size={size}: it must be at least 1")
    return size
