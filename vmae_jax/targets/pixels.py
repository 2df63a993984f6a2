"""Pixels as targets: raw, or each cube normalised by its own mean and deviation (VideoMAE)."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from vmae_jax.patches import Patch, gather_cubes
from vmae_jax.registry import register
from vmae_jax.types import Batch, typed

__all__ = ["Pixels", "pixels", "statistics", "to_unit"]

EPSILON = 1e-6  # added to the deviation, outside the root, as the official code does


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The target of `pixels`, which also knows the way back to a picture."""

    normalize: bool
    mean: float = 0.0
    deviation: float = 1.0

    def __call__(self, batch: Batch, decode: Int[Array, "b k"], patch: Patch) -> Float[Array, "b k p"]:
        cubes = to_unit(gather_cubes(batch["video"], decode, patch))
        if not self.normalize:
            return (cubes - self.mean) / self.deviation
        mean, deviation = statistics(cubes, batch["video"].shape[-1])
        split = cubes.reshape(*cubes.shape[:2], -1, mean.shape[-1])
        return ((split - mean) / deviation).reshape(cubes.shape)

    def render(
        self, prediction: Float[Array, "b k p"], mean: Float[Array, "b k 1 c"], deviation: Float[Array, "b k 1 c"]
    ) -> Float[Array, "b k p"]:
        """Predictions as pixels in [0, 1], given each cube's statistics (raw targets need none)."""
        if self.normalize:
            split = prediction.reshape(*prediction.shape[:2], -1, mean.shape[-1])
            prediction = (split * deviation + mean).reshape(prediction.shape)
        else:
            prediction = prediction * self.deviation + self.mean
        return jnp.clip(prediction, 0.0, 1.0)


@register("target")
def pixels(normalize: bool = True, mean: float = 0.0, deviation: float = 1.0) -> Pixels:
    """The pixels of the decoded cubes in [0, 1], normalised per cube and channel or left raw.

    Args:
      normalize: subtract each cube's mean and divide by its deviation, per channel (unbiased
        variance over its 2*16*16 pixels). Predicting zero then costs about 1.
      mean, deviation: of the data set, by which raw pixels are normalised (0.45 and 0.225 in HVM-1).

    Raises:
      ValueError: a deviation that is not above 0.

    Source: the official `engine_for_pretraining.py` of VideoMAE and VideoMAE V2.
    """
    if deviation <= 0:
        raise ValueError(f"deviation={deviation}: above 0")
    return Pixels(normalize, mean, deviation)


@typed
def statistics(cubes: Float[Array, "b k p"], channels: int) -> tuple[Float[Array, "b k 1 c"], Float[Array, "b k 1 c"]]:
    """Mean and deviation (with EPSILON added) of each cube, per channel."""
    split = cubes.reshape(*cubes.shape[:2], -1, channels)
    mean = split.mean(axis=2, keepdims=True)
    variance = split.var(axis=2, keepdims=True, ddof=1)
    return mean, jnp.sqrt(variance) + EPSILON


@typed
def to_unit(cubes: Shaped[Array | np.ndarray, "b k p"]) -> Float[Array, "b k p"]:
    """uint8 pixels as float32 in [0, 1]."""
    return jnp.asarray(cubes, jnp.float32) / 255.0
