"""Frame masking: whole time slots are hidden."""

import jax.numpy as jnp

from vmae_jax.masking.core import Masker, check_ratio, ranks
from vmae_jax.registry import register

__all__ = ["frame"]


@register("mask")
def frame(ratio: float = 0.5) -> Masker:
    """Hide int(ratio * t) of the t time slots completely.

    Source: the ablations of VideoMAE (encoder) and VideoMAE V2 (decoder).
    """
    check_ratio(ratio)
    return Masker(
        keep=lambda grid: (grid.t - int(ratio * grid.t)) * grid.slot,
        score=lambda keys, batch, grid: jnp.repeat(ranks(keys, grid.t), grid.slot, axis=1),
    )
