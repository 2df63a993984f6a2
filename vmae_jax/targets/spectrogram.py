"""Spectrograms as targets: raw values, or each patch normalised by its own mean and deviation."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from vmae_jax.registry import register
from vmae_jax.targets.pixels import Pixels

__all__ = ["Spectrum", "spectrogram"]


@dataclasses.dataclass(frozen=True)
class Spectrum(Pixels):
    """The target of `spectrogram`; its values are those that the model sees.

    Attributes:
      low, high: the values that pictures show as black and white.
    """

    low: float = -2.0
    high: float = 2.0

    def scaled(self, cubes: Shaped[Array | np.ndarray, "b k p"], channels: int) -> Float[Array, "b k p"]:
        """Return the values of cubes, float32."""
        del channels
        return jnp.asarray(cubes, jnp.float32)

    def unit(self, cubes: Shaped[Array | np.ndarray, "b k p"]) -> Float[Array, "b k p"]:
        """Return values as brightness in [0, 1]."""
        return jnp.clip((jnp.asarray(cubes, jnp.float32) - self.low) / (self.high - self.low), 0.0, 1.0)

    def render(
        self, prediction: Float[Array, "b k p"], mean: Float[Array, "b k 1 c"], deviation: Float[Array, "b k 1 c"]
    ) -> Float[Array, "b k p"]:
        """Return predictions as brightness, given the statistics of each patch (raw targets need none)."""
        if self.normalize:
            prediction = prediction * deviation[..., 0] + mean[..., 0]
        return self.unit(prediction)


@register("target")
def spectrogram(normalize: bool = False, low: float = -2.0, high: float = 2.0) -> Spectrum:
    """Predict the values of hidden patches of a spectrogram.

    Args:
      normalize: subtract each patch's mean and divide by its deviation, sqrt(variance + 1e-6) (AudioMAE).
      low, high: the values that pictures show as black and white.

    Raises:
      ValueError: if `low` is not below `high`.
    """
    if low >= high:
        raise ValueError(f"low={low}, high={high}: low must be below high")
    return Spectrum(normalize, joint=True, low=low, high=high)
