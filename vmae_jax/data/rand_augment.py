"""RandAugment of clips: each operation with one draw for all frames, from an explicit seed.

Cubuk et al. 2020 in the form the official fine-tuning uses (timm's "increasing" operations,
`rand-m7-n4-mstd0.5-inc1`): each operation is Pillow's, written in TensorFlow. Rotations, shears
and shifts interpolate bilinearly, where the official code does so bicubically; what comes in from
outside the picture is grey (128).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from vmae_jax.data.transforms import Features
from vmae_jax.registry import register

__all__ = ["RandAugment", "rand_augment"]

LEVELS = 10.0
GREY = 128


@register("transform")
def rand_augment(
    layers: int = 4, magnitude: float = 7.0, deviation: float = 0.5, probability: float = 0.5
) -> "RandAugment":
    """`layers` operations in turn, each drawn from 15.

    Args:
      layers: how many operations (n).
      magnitude: how strong, from 0 to 10 (m); a normal draw around it, for each operation.
      deviation: of that draw (mstd).
      probability: of each operation being carried out at all.
    """
    if layers < 1 or not 0 <= magnitude <= LEVELS or deviation < 0 or not 0 <= probability <= 1:
        raise ValueError(
            f"layers={layers}, magnitude={magnitude}, deviation={deviation}, probability={probability}: layers is at "
            f"least 1, magnitude is in 0 to 10, deviation is at least 0, probability in 0 to 1"
        )
    return RandAugment(layers, magnitude, deviation, probability)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """See `rand_augment`."""

    layers: int
    magnitude: float
    deviation: float
    probability: float

    def __call__(self, features: Features, seed: Any) -> Features:
        tf = _tf()
        video = features["video"]
        shape = video.shape
        for layer in range(self.layers):
            own = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), layer)
            which, whether, sign = tf.unstack(tf.random.stateless_uniform([3], own))
            strength = self.magnitude + self.deviation * tf.random.stateless_normal([], own + 1)
            strength = tf.clip_by_value(strength, 0.0, LEVELS) / LEVELS
            sign = tf.where(sign < 0.5, -1.0, 1.0)
            number = tf.minimum(tf.cast(which * len(OPERATIONS), tf.int32), len(OPERATIONS) - 1)
            branches = [_branch(one, video, strength, sign) for one in OPERATIONS.values()]
            video = tf.cond(
                whether < self.probability,
                lambda number=number, branches=branches: tf.switch_case(number, branches),
                lambda video=video: video,
            )
            video = tf.ensure_shape(video, shape)
        return features | {"video": video}


def _branch(operation: Callable[..., Any], video: Any, strength: Any, sign: Any) -> Callable[[], Any]:
    return lambda: operation(video, strength, sign)


def _tf() -> Any:
    from vmae_jax.data.tf import tensorflow

    return tensorflow()


# Every operation takes the clip, uint8 [t h w c], the strength in 0 to 1, and a sign.


def _autocontrast(video: Any, strength: Any, sign: Any) -> Any:
    """Every channel of every frame stretched to 0 … 255."""
    tf = _tf()
    x = tf.cast(video, tf.float32)
    low, high = (f(x, axis=(1, 2), keepdims=True) for f in (tf.reduce_min, tf.reduce_max))
    scale = 255.0 / tf.maximum(high - low, 1.0)
    return tf.where(high > low, _uint8(tf.floor((x - low) * scale + 1e-3)), video)


def _equalize(video: Any, strength: Any, sign: Any) -> Any:
    """Every channel of every frame with a flat histogram, as Pillow rounds it."""
    tf = _tf()
    t, c = tf.shape(video)[0], tf.shape(video)[3]
    planes = tf.cast(tf.reshape(tf.transpose(video, [0, 3, 1, 2]), [t * c, -1]), tf.int32)
    place = planes + 256 * tf.range(t * c)[:, None]
    counts = tf.reshape(tf.math.bincount(tf.reshape(place, [-1]), minlength=256 * t * c), [t * c, 256])
    last = tf.reduce_max(tf.where(counts > 0, tf.range(256)[None], -1), axis=1)
    step = (tf.shape(planes)[1] - tf.gather(counts, last, batch_dims=1)) // 255
    table = (step[:, None] // 2 + tf.cumsum(counts, axis=1, exclusive=True)) // tf.maximum(step, 1)[:, None]
    table = tf.where(step[:, None] > 0, tf.clip_by_value(table, 0, 255), tf.range(256)[None])
    mapped = tf.gather(table, planes, batch_dims=1)
    shape = tf.shape(video)
    return tf.transpose(tf.cast(tf.reshape(mapped, [t, c, shape[1], shape[2]]), tf.uint8), [0, 2, 3, 1])


def _invert(video: Any, strength: Any, sign: Any) -> Any:
    return 255 - video


def _posterize(video: Any, strength: Any, sign: Any) -> Any:
    """4 bits a channel at strength 0, none at 1."""
    tf = _tf()
    bits = 4 - tf.cast(strength * 4.0, tf.int32)
    mask = tf.cast(256 - tf.bitwise.left_shift(1, 8 - bits), tf.uint8)
    return tf.bitwise.bitwise_and(video, mask)


def _solarize(video: Any, strength: Any, sign: Any) -> Any:
    tf = _tf()
    limit = 256 - tf.cast(strength * 256.0, tf.int32)
    return tf.where(tf.cast(video, tf.int32) < limit, video, 255 - video)


def _solarize_add(video: Any, strength: Any, sign: Any) -> Any:
    tf = _tf()
    x = tf.cast(video, tf.int32)
    brighter = tf.minimum(x + tf.cast(strength * 110.0, tf.int32), 255)
    return tf.cast(tf.where(x < 128, brighter, x), tf.uint8)


def _color(video: Any, strength: Any, sign: Any) -> Any:
    return _blend(_grey(video), video, strength, sign)


def _contrast(video: Any, strength: Any, sign: Any) -> Any:
    tf = _tf()
    mean = tf.floor(tf.reduce_mean(_grey(video), axis=(1, 2, 3), keepdims=True) + 0.5)
    return _blend(mean, video, strength, sign)


def _brightness(video: Any, strength: Any, sign: Any) -> Any:
    return _blend(0.0, video, strength, sign)


def _sharpness(video: Any, strength: Any, sign: Any) -> Any:
    """Against Pillow's SMOOTH; the outermost pixels stay."""
    tf = _tf()
    x = tf.cast(video, tf.float32)
    kernel = tf.constant([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13.0
    channels = tf.shape(video)[3]
    kernel = tf.tile(kernel[:, :, None, None], [1, 1, channels, 1])
    smooth = tf.round(tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "VALID"))
    inner = tf.pad(tf.ones_like(smooth), [[0, 0], [1, 1], [1, 1], [0, 0]])
    smooth = tf.pad(smooth, [[0, 0], [1, 1], [1, 1], [0, 0]])
    return _blend(tf.where(inner > 0, smooth, x), video, strength, sign)


def _rotate(video: Any, strength: Any, sign: Any) -> Any:
    tf = _tf()
    angle = -sign * strength * (30.0 * math.pi / 180.0)
    height, width = _sides(video)
    a, b, d, e = tf.cos(angle), tf.sin(angle), -tf.sin(angle), tf.cos(angle)
    x, y = width / 2.0, height / 2.0
    return _affine(video, a, b, x - a * x - b * y, d, e, y - d * x - e * y)


def _shear_x(video: Any, strength: Any, sign: Any) -> Any:
    return _affine(video, 1.0, sign * strength * 0.3, 0.0, 0.0, 1.0, 0.0)


def _shear_y(video: Any, strength: Any, sign: Any) -> Any:
    return _affine(video, 1.0, 0.0, 0.0, sign * strength * 0.3, 1.0, 0.0)


def _translate_x(video: Any, strength: Any, sign: Any) -> Any:
    return _affine(video, 1.0, 0.0, sign * strength * 0.45 * _sides(video)[1], 0.0, 1.0, 0.0)


def _translate_y(video: Any, strength: Any, sign: Any) -> Any:
    return _affine(video, 1.0, 0.0, 0.0, 0.0, 1.0, sign * strength * 0.45 * _sides(video)[0])


def _affine(video: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
    """Each pixel (x, y) from (a x + b y + c, d x + e y + f), counted as Pillow does, from pixels' edges."""
    tf = _tf()
    c, f = c + 0.5 * (a + b - 1.0), f + 0.5 * (d + e - 1.0)
    matrix = tf.stack([tf.cast(v, tf.float32) for v in (a, b, c, d, e, f, 0.0, 0.0)])[None]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(video, tf.float32),
        transforms=matrix,
        output_shape=tf.shape(video)[1:3],
        fill_value=float(GREY),
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    return _uint8(tf.round(moved))


def _blend(other: Any, video: Any, strength: Any, sign: Any) -> Any:
    """ImageEnhance: `other` at factor 0, the clip at 1; here 1 ± 0.9 · strength, cut off."""
    tf = _tf()
    factor = 1.0 + sign * strength * 0.9
    return _uint8(tf.floor(other + factor * (tf.cast(video, tf.float32) - other)))


def _grey(video: Any) -> Any:
    """Luminance as Pillow has it, float32 [t h w 1]."""
    tf = _tf()
    x = tf.cast(video, tf.int32)
    if video.shape[-1] == 1:
        return tf.cast(x, tf.float32)
    grey = (x[..., 0] * 19595 + x[..., 1] * 38470 + x[..., 2] * 7471 + 0x8000) // 65536
    return tf.cast(grey, tf.float32)[..., None]


def _sides(video: Any) -> tuple[Any, Any]:
    tf = _tf()
    sides = tf.cast(tf.shape(video)[1:3], tf.float32)
    return sides[0], sides[1]


def _uint8(x: Any) -> Any:
    tf = _tf()
    return tf.cast(tf.clip_by_value(x, 0.0, 255.0), tf.uint8)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": _invert,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _color,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
