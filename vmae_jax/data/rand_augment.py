"""RandAugment of clips: each operation with one draw for all frames, from an explicit seed.

Cubuk et al. 2020 in the form the official fine-tuning uses (timm's "increasing" operations,
`rand-m7-n4-mstd0.5-inc1`): each operation is Pillow's. Rotations, shears and shifts interpolate bicubically; what comes
in from outside the picture is grey (128).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from vmae_jax.data.order import generator
from vmae_jax.data.transforms import Painted, Painter
from vmae_jax.registry import register

__all__ = ["OPERATIONS", "RandAugment", "rand_augment"]

LEVELS = 10.0
GREY = 128

Operation = Callable[[Image.Image, float, float], Image.Image]  # (picture, strength from 0 to 1, sign)


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
class RandAugment(Painted):
    """See `rand_augment`."""

    layers: int
    magnitude: float
    deviation: float
    probability: float

    def painter(self, seed: np.ndarray) -> Painter:
        draw, operations, chosen = generator(seed), list(OPERATIONS.values()), []
        for _ in range(self.layers):
            operation = operations[draw.integers(len(operations))]
            carried_out, positive = draw.uniform(size=2) < (self.probability, 0.5)
            level = min(max(self.magnitude + self.deviation * draw.normal(), 0.0), LEVELS)
            if carried_out:
                chosen.append((operation, level / LEVELS, 1.0 if positive else -1.0))

        def paint(picture: np.ndarray) -> np.ndarray:
            image = Image.fromarray(picture if picture.shape[-1] == 3 else picture[..., 0])
            for operation, strength, sign in chosen:
                image = operation(image, strength, sign)
            return np.asarray(image).reshape(picture.shape)

        return paint


def _posterized(image: Image.Image, strength: float, sign: float) -> Image.Image:
    bits = 4 - int(4 * strength)
    return ImageOps.posterize(image, bits) if bits else image.point([0] * 256 * len(image.mode))  # Pillow refuses 0


def _solarize_add(image: Image.Image, strength: float, sign: float) -> Image.Image:
    added = int(strength * 110)
    return image.point([min(255, level + added) if level < 128 else level for level in range(256)] * len(image.mode))


def _enhanced(image: Image.Image, strength: float, sign: float, *, kind: Any) -> Image.Image:
    """Colour, contrast, brightness or sharpness: 1 ± 0.9 · strength of what the picture has."""
    return kind(image).enhance(1.0 + 0.9 * strength * sign)


def _moved(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Each pixel (x, y) from (a x + b y + c, d x + e y + f)."""
    grey = GREY if image.mode == "L" else (GREY,) * 3
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=grey)


def _rotated(image: Image.Image, strength: float, sign: float) -> Image.Image:
    grey = GREY if image.mode == "L" else (GREY,) * 3
    return image.rotate(30.0 * strength * sign, Image.Resampling.BICUBIC, fillcolor=grey)


OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, strength, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, strength, sign: ImageOps.equalize(image),
    "invert": lambda image, strength, sign: ImageOps.invert(image),
    "rotate": _rotated,
    "posterize": _posterized,
    "solarize": lambda image, strength, sign: ImageOps.solarize(image, 256 - int(256 * strength)),
    "solarize_add": _solarize_add,
    "color": functools.partial(_enhanced, kind=ImageEnhance.Color),
    "contrast": functools.partial(_enhanced, kind=ImageEnhance.Contrast),
    "brightness": functools.partial(_enhanced, kind=ImageEnhance.Brightness),
    "sharpness": functools.partial(_enhanced, kind=ImageEnhance.Sharpness),
    "shear_x": lambda image, strength, sign: _moved(image, (1, 0.3 * strength * sign, 0, 0, 1, 0)),
    "shear_y": lambda image, strength, sign: _moved(image, (1, 0, 0, 0.3 * strength * sign, 1, 0)),
    "translate_x": lambda image, strength, sign: _moved(image, (1, 0, 0.45 * strength * sign * image.width, 0, 1, 0)),
    "translate_y": lambda image, strength, sign: _moved(image, (1, 0, 0, 0, 1, 0.45 * strength * sign * image.height)),
}
