"""Random erasing on the device: a box of noise, at the same place in every frame."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vmae_jax.registry import register
from vmae_jax.types import stream, typed

__all__ = ["Erasing", "random_erasing"]

TRIES = 10  # the official code tries 100 boxes; fewer than one draw in ten thousand needs more than these


@dataclasses.dataclass(frozen=True)
class Erasing:
    """See `random_erasing`."""

    probability: float
    area: tuple[float, float]
    ratio: tuple[float, float]

    @typed
    def __call__(self, video: Float[Array, "b t h w c"], keys: Key[Array, "b"]) -> Float[Array, "b t h w c"]:
        """Erase boxes of normalised clips, each drawn with the key of its example."""
        return jax.vmap(self._erase)(video, stream(keys, "erase"))

    def _erase(self, video: Array, key: Array) -> Array:
        height, width = video.shape[1:3]
        hit = jax.random.uniform(stream(key, "whether")) < self.probability
        draw = jax.random.uniform(stream(key, "box"), (4, TRIES))
        area = height * width * (self.area[0] + draw[0] * (self.area[1] - self.area[0]))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = jnp.exp(low + draw[1] * (high - low))
        tall, wide = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
        fits = (tall < height) & (wide < width)
        tall, wide, down, across = (a[fits.argmax()] for a in (tall, wide, draw[2], draw[3]))
        top, left = jnp.floor(down * (height - tall + 1)), jnp.floor(across * (width - wide + 1))
        y, x = jnp.arange(height)[:, None], jnp.arange(width)[None]
        inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
        noise = jax.random.normal(stream(key, "noise"), video.shape, video.dtype)
        return jnp.where((hit & fits.any() & inside)[None, :, :, None], noise, video)


@register("erasing")
def random_erasing(
    probability: float = 0.25,
    area: tuple[float, float] | list[float] = (0.02, 1 / 3),
    ratio: tuple[float, float] | list[float] = (0.3, 1 / 0.3),
) -> Erasing:
    """Replace a box by Gaussian noise (Zhong et al. 2020; timm's "pixel" mode, with one box for all frames).

    Args:
      probability: the probability that a clip is erased.
      area: the smallest and the largest share of the picture.
      ratio: the smallest and the largest ratio of height to width.

    Raises:
      ValueError: if a number is outside its range.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be in [0, 1], got {probability}")
    if not (len(area) == len(ratio) == 2 and 0 < area[0] <= area[1] < 1 and 0 < ratio[0] <= ratio[1]):
        raise ValueError(f"area={list(area)}, ratio={list(ratio)}: each must be (smallest, largest), areas below 1")
    return Erasing(probability, (area[0], area[1]), (ratio[0], ratio[1]))
