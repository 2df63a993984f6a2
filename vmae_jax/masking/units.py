"""Masks of whole units, blocks of tokens that a hierarchical network pools together (Hiera)."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.masking.core import Masker
from vmae_jax.registry import register
from vmae_jax.types import Batch, Grid

__all__ = ["units"]


@register("mask", mask="mask")
def units(mask: Masker, unit: Sequence[int] = (1, 2, 2)) -> Masker:
    """Apply a mask to units in place of tokens: all tokens of a unit have its score.

    Args:
      mask: scores the units. Their scores must differ, as ranks do, so that no unit is divided.
      unit: the size of a unit in tokens (t, h, w). `models.hiera` with two poolings has units of 1x2x2.

    Raises:
      ValueError: if a size is below 1, the mask has rows of its own length (padding), or the grid does not divide
        into units.
    """
    if len(unit) != 3 or min(unit) < 1:
        raise ValueError(f"unit={list(unit)}: three numbers of tokens (t, h, w), at least 1 each")
    if mask.allowed is not None:
        raise ValueError("units: the mask pads the list of visible tokens, which units cannot")
    t, h, w = (int(side) for side in unit)

    def coarse(grid: Grid) -> Grid:
        if grid.t % t or grid.h % h or grid.w % w:
            raise ValueError(f"units: a grid of {grid} tokens does not divide into units of {t}x{h}x{w}")
        return Grid(grid.t // t, grid.h // h, grid.w // w)

    def keep(grid: Grid) -> int:
        return mask.keep(coarse(grid)) * t * h * w

    def score(keys: Array, batch: Batch, grid: Grid) -> Array:
        few = coarse(grid)
        scores = mask.score(keys, batch, few).reshape(-1, few.t, few.h, few.w)
        for axis, count in ((1, t), (2, h), (3, w)):
            scores = jnp.repeat(scores, count, axis=axis)
        return scores.reshape(len(scores), -1)

    return Masker(keep, score, mask.inputs, mask.check, unit=(t, h, w))
