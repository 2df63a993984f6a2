"""Loss spikes: a step whose loss or gradient norm stands far above those of the steps before it.

Decided inside the step, from a window that is part of the state, so that the same run finds the
same spikes after any resume and on every host. The statistics are medians: up to half of the
window may be outliers, and where the loss has moved for good, the window moves after it.
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
_LEAST = 1e-3  # of the median: a window without any spread must not make spikes of rounding


@register("spikes")
@dataclasses.dataclass(frozen=True)
class Spikes:
    """When a step counts as a spike: (value - median) / spread > limit, over the last `window` steps.

    The spread is 1.4826 times the median absolute deviation, at least a thousandth of the median.
    Only what lies above the median is a spike; until the window is full nothing is.

    Attributes:
      window: steps looked back on, refused ones included.
      limit: of the robust z-score.
    """

    window: int = 128
    limit: float = 10.0

    def __post_init__(self) -> None:
        if self.window < 4 or self.limit <= 0:
            raise ConfigError(
                f"train.spikes: window={self.window} is at least 4 steps, and limit={self.limit:g} above 0"
            )


def empty(spikes: Spikes) -> dict[str, Array]:
    """The history of a run that has not begun: part of `TrainState.extra`."""
    return {name: jnp.zeros(spikes.window, jnp.float32) for name in WATCHED} | {"seen": jnp.int32(0)}


def judge(
    history: Mapping[str, Array], values: Mapping[str, Array], spikes: Spikes
) -> tuple[Bool[Array, ""], dict[str, Array]]:
    """Whether `values` (of `WATCHED`) are a spike, and the history with them; what is not finite is left out."""
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
