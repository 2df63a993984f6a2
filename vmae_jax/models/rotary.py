"""Rotary positions in time, height and width: every block rotates its queries and keys (V-JEPA 2 and 2.1)."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vmae_jax.registry import register
from vmae_jax.types import Grid

__all__ = ["Rotary", "Rotation", "rotary", "rotated", "rotation"]

PAIRINGS = ("neighbours", "tiled")
BASE = 10_000.0


class Rotation(NamedTuple):
    """What queries and keys are multiplied by.

    Attributes:
      cos: cosine of each channel's angle, [b n d], the channels of one head after the other.
      sin: its sine, with the sign of the channel's partner.
    """

    cos: Float[Array, "b n d"]
    sin: Float[Array, "b n d"]


class Nothing(nn.Module):
    """Adds nothing to tokens, whose places are in their rotations."""

    def __call__(self, index: Int[Array, "b k"]) -> Float[Array, "b k 1"]:
        return jnp.zeros((*index.shape, 1))


@dataclasses.dataclass(frozen=True)
class Rotary:
    """See `rotary`."""

    pairing: str
    side: int | None

    def __call__(self, grid: Grid, width: int) -> nn.Module:
        """A module that adds nothing, where other positions are added to the tokens."""
        del grid, width
        return Nothing()

    def angles(self, grid: Grid, size: int) -> Float[np.ndarray, "n k"]:
        """Return the angle of each channel of a head at each token, in float64.

        Each axis has 2 * (size // 3 // 2) channels, in the order t, h, w; those that remain have the angle 0.

        Raises:
          ValueError: if a head is too small for three axes.
        """
        half = size // 3 // 2
        if half < 1:
            raise ValueError(f"rotary positions need heads of at least 6 channels, these have {size}")
        frequency = BASE ** (-np.arange(half) / half)
        found = np.zeros((grid.size, size))
        places = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in (grid.t, grid.h, grid.w)), indexing="ij")
        for axis, place in enumerate(places):
            angle = place.reshape(-1, 1) * self._stretch(axis, grid) * frequency
            columns = slice(axis * 2 * half, (axis + 1) * 2 * half)
            found[:, columns] = np.repeat(angle, 2, axis=1) if self.pairing == "neighbours" else np.tile(angle, 2)
        return found

    def _stretch(self, axis: int, grid: Grid) -> float:
        """The distance of two neighbours on an axis of t, h, w."""
        if self.side is None or axis == 0:
            return 1.0
        return (self.side - 1) / max((grid.h, grid.w)[axis - 1] - 1, 1)


@register("positions")
def rotary(pairing: str = "neighbours", side: int | None = None) -> Rotary:
    """Positions as rotations of neighbouring channels of each head's queries and keys, in every block.

    Args:
      pairing: "neighbours", where both channels of a pair rotate by one angle (V-JEPA 2.1), or "tiled", where they
        have the angles of two frequencies, which is no rotation: the published V-JEPA 2 models were trained so.
      side: stretch heights and widths so that any grid spans that of `side` tokens a side (V-JEPA 2.1: 16); by
        default tokens are counted.

    Raises:
      ValueError: if the pairing is unknown, or the side below 2.
    """
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing={pairing!r}: one of {', '.join(PAIRINGS)}")
    if side is not None and side < 2:
        raise ValueError(f"side={side}: at least 2 tokens")
    return Rotary(pairing, side)


def rotation(
    positions: Any, grid: Grid, index: Int[Array, "b k"], *, width: int, heads: int, prefix: int = 0, dtype: Any
) -> Rotation | None:
    """Return the rotations of tokens, or None where `positions` are not rotary.

    Args:
      positions: of a model.
      grid: of whole clips.
      index: the tokens' numbers in the grid.
      width, heads: of the tokens.
      prefix: how many tokens before those are not rotated.
      dtype: of the result, that of the queries and keys.
    """
    if not isinstance(positions, Rotary):
        return None
    angles = positions.angles(grid, width // heads)
    sign = np.where(np.arange(width // heads) % 2 == 0, -1.0, 1.0)
    tables = {"cos": np.cos(angles), "sin": np.sin(angles) * sign}
    found = {}
    for name, table in tables.items():
        rows = jnp.asarray(table, dtype)[index]
        rows = jnp.pad(rows, ((0, 0), (prefix, 0), (0, 0)), constant_values=float(name == "cos"))
        found[name] = jnp.tile(rows, (1, 1, heads))
    return Rotation(**found)


def rotated(x: Float[Array, "b n d"], by: Rotation) -> Float[Array, "b n d"]:
    """Return queries or keys, rotated: each channel times its cosine plus its neighbour's value times its sine.

    Arrays stay flat, so that nothing has to be moved between the lanes of a TPU's vectors but to the next one.
    """
    even = jnp.arange(x.shape[-1]) % 2 == 0
    partner = jnp.where(even, jnp.roll(x, -1, axis=-1), jnp.roll(x, 1, axis=-1))
    return x * by.cos + partner * by.sin
