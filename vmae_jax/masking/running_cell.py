"""Running-cell masking, the decoder mask of VideoMAE V2: the pattern of each 2x2 cell rotates over time."""

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.masking.core import Masker
from vmae_jax.registry import register
from vmae_jax.types import Grid

__all__ = ["running_cell"]

CELL = 2  # tokens on a side of a cell


@register("mask")
def running_cell(ratio: float = 0.5) -> Masker:
    """Drop `ratio` of each 2x2 cell of each slot; the pattern moves on by a quarter from slot to slot.

    Each clip draws one of four phases. In any four consecutive slots every place is kept
    equally often, so the decoded tokens cover the clip evenly.
    Source: the official `RunningCellMaskingGenerator` of VideoMAE V2.

    Args:
      ratio: the share of tokens that are not decoded: 0.25, 0.5 or 0.75.

    Raises:
      ValueError: if the ratio is another one, or (when it is used) a side of the grid is odd.
    """
    dropped = ratio * CELL * CELL
    if dropped not in (1, 2, 3):
        raise ValueError(f"running-cell masks drop 0.25, 0.5 or 0.75 of each 2x2 cell, got {ratio}")

    def keep(grid: Grid) -> int:
        _check_even(grid)
        return grid.size - grid.size * int(dropped) // (CELL * CELL)

    def score(keys, batch, grid: Grid):
        del batch
        phase = jax.vmap(lambda key: jax.random.randint(key, (), 0, CELL * CELL))(keys)
        return jnp.asarray(patterns(grid, int(dropped)))[phase]

    return Masker(keep=keep, score=score)


def patterns(grid: Grid, dropped: int) -> np.ndarray:
    """Return the masks of the four phases, [4, n]: 1.0 where a token is kept."""
    _check_even(grid)
    t, y, x = np.meshgrid(*(np.arange(n) for n in (grid.t, grid.h, grid.w)), indexing="ij")
    raster = (y % CELL) * CELL + x % CELL
    shift = np.arange(CELL * CELL)[:, None, None, None] + 1 + t
    drop = (raster + shift) % (CELL * CELL) < dropped
    return (~drop).reshape(CELL * CELL, -1).astype(np.float32)


def _check_even(grid: Grid) -> None:
    if grid.h % CELL or grid.w % CELL:
        raise ValueError(
            f"running-cell masks need an even number of tokens in height and width; the grid is {grid} (t x h x w)"
        )
