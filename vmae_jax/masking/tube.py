"""Tube masking: one spatial mask, repeated through time (VideoMAE)."""

import jax.numpy as jnp

from vmae_jax.masking.core import Masker, check_ratio, ranks
from vmae_jax.registry import register

__all__ = ["tube"]


@register("mask")
def tube(ratio: float = 0.9) -> Masker:
    """Hide int(ratio * h * w) places, the same ones in every time slot.

    A cube that moves little could be copied from the previous slot. Hiding the whole tube
    prevents that. Source: the official `TubeMaskingGenerator` of VideoMAE.
    """
    check_ratio(ratio)
    return Masker(
        keep=lambda grid: grid.t * (grid.slot - int(ratio * grid.slot)),
        score=lambda keys, batch, grid: jnp.tile(ranks(keys, grid.slot), (1, grid.t)),
    )
