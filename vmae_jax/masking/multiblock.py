"""Masks of large blocks, of which the rest is the context: what V-JEPA and the methods that follow it predict."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vmae_jax.masking.core import ranks
from vmae_jax.registry import register
from vmae_jax.types import Grid, MaskPlan, stream

__all__ = ["Multiblock", "multiblock"]

DRAWS = 8  # of the blocks of a clip; the first that leave something to see are taken


class Counts(NamedTuple):
    """The tokens of a plan: those of the context and those that are predicted, padding included."""

    context: int
    targets: int


@dataclasses.dataclass(frozen=True)
class Multiblock:
    """See `multiblock`."""

    count: int
    scale: float
    aspect: tuple[float, float]
    context: float
    targets: float

    def counts(self, grid: Grid) -> Counts:
        """Return the tokens of each part.

        Raises:
          ValueError: if the grid has too few tokens for both.
        """
        seen, hidden = (math.floor(share * grid.slot + 0.5) for share in (self.context, self.targets))
        if not 0 < seen <= grid.slot or not 0 < hidden <= grid.slot:
            raise ValueError(
                f"multiblock: context={self.context} and targets={self.targets} of {grid.slot} positions a slot are "
                f"{seen} and {hidden}: there must be some of each"
            )
        return Counts(seen * grid.t, hidden * grid.t)

    def sizes(self, aspect: Float[Array, "..."], grid: Grid) -> tuple[Array, Array]:
        """Return height and width in tokens of blocks of these aspect ratios (height to width)."""
        area = int(grid.slot * self.scale)
        height = jnp.clip(jnp.round(jnp.sqrt(area * aspect)), 1, grid.h)
        width = jnp.clip(jnp.round(jnp.sqrt(area / aspect)), 1, grid.w)
        return height.astype(jnp.int32), width.astype(jnp.int32)

    def hidden(self, key: Key[Array, ""], grid: Grid) -> Bool[Array, " s"]:
        """Return which positions of every slot the blocks of one clip cover; some are left."""
        drawn = jax.vmap(lambda number: self._drawn(jax.random.fold_in(key, number), grid))(jnp.arange(DRAWS))
        return drawn[jnp.argmax(~drawn.all(axis=1))]

    def plan(self, keys: Key[Array, "b"], grid: Grid) -> MaskPlan:
        """Return the context and the targets of each clip.

        Both have as many tokens for every clip. Where a clip has more, whole tubes are left out at random; where it has
        fewer, the rest is padding.
        """
        counts = self.counts(grid)
        hidden = jax.vmap(lambda key: self.hidden(key, grid))(stream(keys, "boxes"))
        noise = ranks(stream(keys, "ties"), grid.slot)
        visible, valid = _chosen(~hidden, noise, counts.context // grid.t, grid)
        decode, decode_valid = _chosen(hidden, noise, counts.targets // grid.t, grid)
        return MaskPlan(visible, decode, decode_valid.astype(jnp.float32), valid, decode_valid)

    def _drawn(self, key: Key[Array, ""], grid: Grid) -> Bool[Array, " s"]:
        ratio, top, left = (stream(key, name) for name in ("aspect", "top", "left"))
        low, high = self.aspect
        height, width = self.sizes(jax.random.uniform(ratio, minval=low, maxval=high), grid)
        y = jax.random.randint(top, (self.count, 1), 0, grid.h - height + 1)
        x = jax.random.randint(left, (self.count, 1), 0, grid.w - width + 1)
        rows, columns = jnp.arange(grid.h), jnp.arange(grid.w)
        inside = ((rows >= y) & (rows < y + height))[:, :, None] & ((columns >= x) & (columns < x + width))[:, None, :]
        return inside.any(axis=0).reshape(-1)


@register("blocks")
def multiblock(
    count: int = 8,
    scale: float = 0.15,
    aspect: tuple[float, float] | list[float] = (0.75, 1.5),
    context: float = 0.25,
    targets: float = 0.46,
) -> Multiblock:
    """Predict what `count` blocks cover, in every slot of time, from the rest (V-JEPA).

    All blocks of a clip have one size. The official code cuts the lists of a batch to the shortest, and what it leaves
    out is the end of the clip. Here their lengths are fixed, for every batch, and what is left out are whole tubes,
    drawn at random.

    Args:
      count: the number of blocks, which may overlap.
      scale: the share of a slot that each block covers.
      aspect: the least and the greatest ratio of height to width, which is drawn uniformly.
      context: the share of a slot's positions that the encoder sees.
      targets: the share of a slot's positions that is predicted.

    Raises:
      ValueError: if a number is out of range.
    """
    shares = {"scale": scale, "context": context, "targets": targets}
    wrong = [name for name, share in shares.items() if not 0 < share <= 1]
    if wrong:
        raise ValueError(f"multiblock: {wrong[0]}={shares[wrong[0]]}: a share in (0, 1]")
    if count < 1 or len(aspect) != 2 or not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"multiblock: count={count}, aspect={list(aspect)}: at least 1; two ratios above 0, ascending")
    return Multiblock(count, scale, (float(aspect[0]), float(aspect[1])), context, targets)


def _chosen(
    wanted: Bool[Array, "b s"], noise: Float[Array, "b s"], count: int, grid: Grid
) -> tuple[Int[Array, "b k"], Bool[Array, "b k"]]:
    """Return `count` of the wanted positions in all slots, ascending, and which of them are wanted: the rest pads."""
    order = jnp.argsort(jnp.where(wanted, noise, noise + grid.slot), axis=1)
    places = jnp.sort(order[:, :count], axis=1)
    real = jnp.take_along_axis(wanted, places, axis=1)
    slots = jnp.arange(grid.t)[None, :, None] * grid.slot
    return (slots + places[:, None]).reshape(len(places), -1), jnp.tile(real, (1, grid.t))
