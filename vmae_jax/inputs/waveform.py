"""Changes of waveforms in training: sound that begins elsewhere and ends with its beginning, louder or quieter."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from vmae_jax.registry import register
from vmae_jax.types import stream

__all__ = ["Waveform", "waveform"]


@dataclasses.dataclass(frozen=True)
class Waveform:
    """See `waveform`."""

    roll: bool
    gain: float | None

    def __call__(
        self, samples: Num[Array, "b n"], keys: Key[Array, "b"]
    ) -> tuple[Float[Array, "b n"], Float[Array, "b"]]:
        """Return the sound of each example, changed with its key, and by how many samples it was rolled."""
        count, drawn = samples.shape[1], stream(keys, "waveform")
        sound, by = jnp.asarray(samples, jnp.float32), jnp.zeros(samples.shape[0], jnp.int32)
        if self.roll:
            by = jax.vmap(lambda key: jax.random.randint(key, (), 0, count))(stream(drawn, "roll"))
            sound = jax.vmap(jnp.roll)(sound, by)
        if self.gain is not None:
            gain = self.gain
            loud = jax.vmap(lambda key: jax.random.beta(key, gain, gain))(stream(drawn, "gain")) + 0.5
            sound = sound * loud[:, None]
        return sound, by


@register("waveform_augment")
def waveform(roll: bool = True, gain: float | None = 10.0) -> Waveform:
    """Roll the sound of a window by a random time, and multiply it by 0.5 + Beta(gain, gain), both by each clip's seed.

    What is rolled out at the end comes in at the beginning; where sound is only a part of the window, so does the
    padding. The factor is 1 on average; the larger `gain`, the nearer to 1. AudioMAE has both, with a gain of 10.

    Args:
      roll: whether sound is rolled.
      gain: of the distribution; None: the sound is as loud as it was.

    Raises:
      ValueError: if `gain` is not above 0.
    """
    if gain is not None and gain <= 0:
        raise ValueError(f"gain={gain}: above 0, or None for sound as loud as it was")
    return Waveform(roll, gain)
