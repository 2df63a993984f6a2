"""Position embeddings of tokens, each a small module (index [b k]) -> [b k d]."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import initializers
from jaxtyping import Array, Float, Int

from vmae_jax.models.parameters import declare
from vmae_jax.registry import register
from vmae_jax.resampling import cubic, linear, matrix
from vmae_jax.types import Grid

__all__ = [
    "LEARNED",
    "Positions",
    "for_grid",
    "grids_of_tables",
    "learned",
    "separable",
    "sincos_2d",
    "sincos_3d",
    "sincos_time_space",
    "sinusoid_1d",
]

LEARNED = ("Learned_0", "Separable_0")  # modules with parameters, as an encoder or decoder names them
Positions = Callable[[Grid, int], nn.Module]  # (grid, width) -> module


class Fixed(nn.Module):
    """A computed table, which is not a parameter."""

    table: Callable[[Grid, int], np.ndarray]
    grid: Grid
    width: int

    @nn.compact
    def __call__(self, index: Int[Array, "b k"]) -> Float[Array, "b k d"]:
        return jnp.asarray(self.table(self.grid, self.width))[index]


class Interpolated(nn.Module):
    """The sinusoid of a fixed grid of single pictures, interpolated for others."""

    base: Grid
    grid: Grid
    width: int

    @nn.compact
    def __call__(self, index: Int[Array, "b k"]) -> Float[Array, "b k d"]:
        table = jnp.asarray(_sinusoid_1d(self.base, self.width))
        if (self.grid.h, self.grid.w) != (self.base.h, self.base.w):
            shape = (self.grid.h, self.grid.w, self.width)
            table = jax.image.resize(table.reshape(self.base.h, self.base.w, -1), shape, "bicubic")
        return table.reshape(self.grid.slot, -1)[index % self.grid.slot]


class Learned(nn.Module):
    """A learned vector for each token of the grid."""

    grid: Grid
    width: int

    @nn.compact
    def __call__(self, index: Int[Array, "b k"]) -> Float[Array, "b k d"]:
        return _table(self, "table", self.grid.size, self.width)[index]


class Separable(nn.Module):
    """The sum of two learned vectors, one for the place in the frame and one for the time (MAE-ST)."""

    grid: Grid
    width: int

    @nn.compact
    def __call__(self, index: Int[Array, "b k"]) -> Float[Array, "b k d"]:
        space = _table(self, "space_table", self.grid.slot, self.width)
        time = _table(self, "time_table", self.grid.t, self.width)
        return space[index % self.grid.slot] + time[index // self.grid.slot]


def _table(module: nn.Module, name: str, length: int, width: int) -> Array:
    # PyTorch's trunc_normal_(std=0.02) truncates at ±2, a hundred deviations away: effectively a normal distribution.
    init = declare(initializers.normal(0.02), None, "embed", decay=False, layer=0)
    return jnp.asarray(module.param(name, init, (length, width)))


@register("positions")
def sinusoid_1d(base: Sequence[int] | None = None) -> Positions:
    """Fixed sinusoid over the flattened index: sine on even channels, cosine on odd (VideoMAE).

    Args:
      base: rows and columns of a grid of single pictures; for any other grid the table of this one is interpolated
        bicubically, so that the flattened index means the same place (RVM: 16 and 16).
    """
    if base is None:
        return lambda grid, width: Fixed(_sinusoid_1d, grid, width)
    if len(base) != 2 or min(base) < 1:
        raise ValueError(f"base={list(base)}: rows and columns of a grid")
    return functools.partial(Interpolated, Grid(1, *base))


@register("positions")
def sincos_3d(base: float = 10_000.0, cut: bool = False) -> Positions:
    """Fixed sines and cosines of t, h and w side by side, a third of the channels each.

    Each axis takes 2 * (width // 6) channels, its sines before its cosines as in MAE. The remaining
    channels at the end are zero.

    Args:
      cut: where the width is no multiple of 6, each axis takes 2 * ceil(width / 6) channels, and what exceeds the width
        is cut off at the end (V-JEPA's `uniform_power`).
      base: the ratio of the longest to the shortest wavelength. For a small grid and few channels, waves of about
        the length of the grid distinguish positions better.
    """
    if base <= 1:
        raise ValueError(f"base={base}: above 1")
    return lambda grid, width: Fixed(functools.partial(_sincos_3d, base=base, cut=cut), grid, width)


@register("positions")
def sincos_2d() -> Positions:
    """Fixed sines and cosines of the column, then of the row, half the channels each; the same at all times (MAE).

    Raises:
      ValueError: if the width is not a multiple of 4 (when the module is built).
    """
    return lambda grid, width: Fixed(_sincos_2d, grid, width)


@register("positions")
def sincos_time_space() -> Positions:
    """Fixed sines and cosines of t in the first quarter of the channels, and of h and w in the others (MVD).

    Those of h and w are as in `sincos_2d`.

    Raises:
      ValueError: if the width is not a multiple of 16 (when the module is built).
    """
    return lambda grid, width: Fixed(_sincos_time_space, grid, width)


@register("positions")
def learned() -> Positions:
    """A learned table over the grid (MotionMAE and others)."""
    return Learned


@register("positions")
def separable() -> Positions:
    """A learned table for places in a frame plus one for times (MAE-ST)."""
    return Separable


def grids_of_tables(old: Grid, new: Grid) -> dict[str, tuple[Grid, Grid]]:
    """Return which part of two grids each learned table is over, by its name."""
    return {
        "table": (old, new),
        "space_table": (Grid(1, old.h, old.w), Grid(1, new.h, new.w)),
        "time_table": (Grid(old.t, 1, 1), Grid(new.t, 1, 1)),
    }


def for_grid(params: Any, old: Grid, new: Grid) -> Any:
    """Return a network's parameters with its learned positions interpolated for another grid.

    They are interpolated bicubically in space and linearly in time. Fixed positions are no parameters.

    Args:
      params: of an encoder or decoder.
      old, new: grids of tokens.
    """
    if old == new:
        return params
    grids = grids_of_tables(old, new)
    tables = {
        module: {name: _interpolated(table, *grids[name]) for name, table in params[module].items()}
        for module in LEARNED
        if params.get(module)
    }
    return {**params, **tables}


def _interpolated(table: Array, old: Grid, new: Grid) -> Array:
    space = np.kron(matrix(old.h, new.h, cubic), matrix(old.w, new.w, cubic)).astype(np.float32)
    time = matrix(old.t, new.t, linear).astype(np.float32)
    grid = jnp.asarray(table).reshape(old.t, old.slot, -1)
    return jnp.einsum("ut,sp,tpd->usd", time, space, grid, precision="highest").reshape(new.size, -1)


@functools.lru_cache(maxsize=8)  # each trace of a model computes it, and a large one takes a tenth of a second
def _sinusoid_1d(grid: Grid, width: int) -> np.ndarray:
    channel = np.arange(width)
    angle = np.arange(grid.size)[:, None] / np.power(10000.0, 2 * (channel // 2) / width)
    table = np.where(channel % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)
    table.flags.writeable = False
    return table


def _sincos_3d(grid: Grid, width: int, base: float = 10_000.0, cut: bool = False) -> np.ndarray:
    half = -(-width // 6) if cut else width // 6
    frequency = 1.0 / base ** (np.arange(half) / max(half, 1))
    axes = np.meshgrid(*(np.arange(n) for n in (grid.t, grid.h, grid.w)), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequency for axis in axes]
    table = np.concatenate([part for angle in angles for part in (np.sin(angle), np.cos(angle))], axis=1)
    return np.pad(table, ((0, 0), (0, max(width - table.shape[1], 0))))[:, :width].astype(np.float32)


def _sincos_time_space(grid: Grid, width: int) -> np.ndarray:
    if width % 16:
        raise ValueError(f"sincos_time_space: a width of {width} is not a multiple of 16")
    frequency = 1.0 / 10000.0 ** (np.arange(width // 8) / (width // 8))
    angle = np.repeat(np.arange(grid.t), grid.slot)[:, None] * frequency
    time = np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
    return np.concatenate([time, _sincos_2d(grid, width - width // 4)], axis=1)


def _sincos_2d(grid: Grid, width: int) -> np.ndarray:
    if width % 4:
        raise ValueError(f"sincos_2d: a width of {width} is not a multiple of 4")
    frequency = 1.0 / 10000.0 ** (np.arange(width // 4) / (width // 4))
    _, row, column = np.meshgrid(*(np.arange(n) for n in (grid.t, grid.h, grid.w)), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequency for axis in (column, row)]
    return np.concatenate([part for angle in angles for part in (np.sin(angle), np.cos(angle))], axis=1).astype(
        np.float32
    )
