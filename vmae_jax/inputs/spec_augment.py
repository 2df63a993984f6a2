"""SpecAugment (Park et al. 2019): bands of frequencies and spans of time of a spectrogram become its mean, 0."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vmae_jax.registry import register
from vmae_jax.types import stream

__all__ = ["SpecAugment", "spec_augment"]


@dataclasses.dataclass(frozen=True)
class SpecAugment:
    """See `spec_augment`."""

    frequency: int
    frequencies: int
    time: int
    times: int
    shift: bool

    def __call__(
        self, values: Float[Array, "b t m"], real: Array, keys: Key[Array, "b"]
    ) -> tuple[Float[Array, "b t m"], Array]:
        """Return normalised spectrograms, augmented with the key of each example, and which of their frames are sound.

        Args:
          values: spectrograms.
          real: which frames are sound, [b t]; they are shifted with the spectrogram.
          keys: one for each example.
        """
        return jax.vmap(self._one)(values, real, stream(keys, "spec_augment"))

    def _one(self, values: Array, real: Array, key: Array) -> tuple[Array, Array]:
        frames, bins = values.shape
        if self.shift:
            by = jax.random.randint(stream(key, "shift"), (), 0, frames)
            values, real = jnp.roll(values, by, axis=0), jnp.roll(real, by)
        hidden = _bands(stream(key, "frequency"), bins, self.frequency, self.frequencies)[None]
        hidden = hidden | _bands(stream(key, "time"), frames, self.time, self.times)[:, None]
        return jnp.where(hidden, 0.0, values), real


def _bands(key: Array, length: int, longest: int, count: int) -> Array:
    """Return which of `length` places are in one of `count` bands of 0 to `longest` places."""
    sizes = jax.random.randint(stream(key, "size"), (count, 1), 0, min(longest, length) + 1)
    begin = jnp.floor(jax.random.uniform(stream(key, "begin"), (count, 1)) * (length - sizes + 1))
    place = jnp.arange(length)
    return ((place >= begin) & (place < begin + sizes)).any(axis=0)


@register("spectrogram_augment", smoke={"time": 4})
def spec_augment(
    frequency: int = 48, frequencies: int = 1, time: int = 48, times: int = 4, shift: bool = False
) -> SpecAugment:
    """Hide bands of frequencies and spans of time, and shift the sound (MBT, AV-MAE).

    Args:
      frequency, frequencies: the most bins of a band, and how many bands.
      time, times: the most frames of a span, and how many spans.
      shift: first move the sound by a random time; what leaves at the end comes in at the beginning.

    Raises:
      ValueError: if a number is negative.
    """
    if min(frequency, frequencies, time, times) < 0:
        raise ValueError(
            f"frequency={frequency}, frequencies={frequencies}, time={time}, times={times}: none may be negative"
        )
    return SpecAugment(frequency, frequencies, time, times, shift)
