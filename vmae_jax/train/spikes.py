"""Loss spikes: steps whose loss or gradient norm is far above those of the steps before.

They are detected inside the step, from a window that is part of the state, so that a run finds the
same spikes after any resume and on every host. The statistics are medians: up to half of the
window may be outliers, and the window follows a loss that has changed for good.
"""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool

from vmae_jax.registry import register
from vmae_jax.spec import ConfigError

__all__ = ["WATCHED", "Spikes", "empty", "judge"]

WATCHED = ("loss", "grad_norm")
_NORMAL = 1.4826  # median absolute deviation of a normal distribution -> standard deviation
_LEAST = 1e-3  # of the median: a window without any spread must not turn rounding into spikes


@register("spikes")
@dataclasses.dataclass(frozen=True)
class Spikes:
    """The definition of a spike: (value - median) / spread > limit, over the last `window` steps.

    The spread is 1.4826 times the median absolute deviation, at least a thousandth of the median.
    Only values above the median are spikes, and only once the window is full.

    Attributes:
      window: number of steps, including refused ones.
      limit: of the robust z-score.
    """

    window: int = 128
    limit: float = 10.0

    def __post_init__(self) -> None:
        if self.window < 4 or self.limit <= 0:
            raise ConfigError(
                f"train.spikes: window must be at least 4 steps and limit above 0, got {self.window} and {self.limit:g}"
            )


def empty(spikes: Spikes) -> dict[str, Array]:
    """Return the history of a new run, a part of `TrainState.extra`."""
    return {name: jnp.zeros(spikes.window, jnp.float32) for name in WATCHED} | {"seen": jnp.int32(0)}


def judge(
    history: Mapping[str, Array], values: Mapping[str, Array], spikes: Spikes
) -> tuple[Bool[Array, ""], dict[str, Array]]:
    """Return whether `values` (of `WATCHED`) are a spike, and the history with them unless they are not finite."""
    finite = jnp.isfinite(jnp.stack([jnp.asarray(values[name], jnp.float32) for name in WATCHED])).all()
    full = history["seen"] >= spikes.window
    spike = jnp.bool_(False)
    new = {"seen": history["seen"] + finite}
    for name in WATCHED:
        past, value = history[name], jnp.asarray(values[name], jnp.float32)
        middle = jnp.median(past)
        spread = jnp.maximum(_NORMAL * jnp.median(jnp.abs(past - middle)), _LEAST * jnp.abs(middle))
        spike |= full & (value - middle > spikes.limit * spread)
        place = history["seen"] % spikes.window
        new[name] = jnp.where(finite, past.at[place].set(value), past)
    return spike & finite, new
