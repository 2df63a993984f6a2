"""Running-cell masking, VideoMAE V2's decoder mask: the pattern of a 2x2 cell turns with time."""

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
    """Drops `ratio` of each 2x2 cell of each slot, a running quarter further at every slot.

    Each clip draws one of four phases. Over any four consecutive slots every place is kept
    equally often, so what is decoded covers the clip evenly.
    Source: the official `RunningCellMaskingGenerator` of VideoMAE V2.

    Args:
      ratio: 0.25, 0.5 or 0.75, the share of tokens that is not decoded.

    Raises:
      ValueError: another ratio; and, when it meets a grid whose sides are odd.
    """
    dropped = ratio * CELL * CELL
    if dropped not in (1, 2, 3):
        raise ValueError(f"running-cell masks drop 0.25, 0.5 or 0.75 of each 2x2 cell, not {ratio}")

    def keep(grid: Grid) -> int:
        _check_even(grid)
        return grid.size - grid.size * int(dropped) // (CELL * CELL)

    def score(keys, batch, grid: Grid):
        del batch
        phase = jax.vmap(lambda key: jax.random.randint(key, (), 0, CELL * CELL))(keys)
        return jnp.asarray(patterns(grid, int(dropped)))[phase]

    return Masker(keep=keep, score=score)


def patterns(grid: Grid, dropped: int) -> np.ndarray:
    """The masks of the four phases, [4, n]: 1.0 where a token is kept."""
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
