"""Masks that follow the optical flow: a map is drawn in one frame and moved to all others (MGMAE)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vmae_jax.masking.core import Masker, check_ratio, ranks
from vmae_jax.registry import register
from vmae_jax.types import Batch, Grid, stream

__all__ = ["BASE", "EARLIER", "LATER", "drawn_map", "flow_guided", "followed", "gaussians", "largest", "moved"]

EARLIER, LATER, BASE = "flow_earlier", "flow_later", "flow_base"  # of the annotated batch
GRAIN = 2**-8  # of a token's score: sums of equal maps differ by rounding, which another mesh does otherwise
EMPTY = 1e-8  # of drawn maps of tokens or pixels, where nothing is drawn: 0 is what comes from beyond the edge
STARTS = ("gaussians", "tokens", "pixels")


@register("mask")
def flow_guided(
    ratio: float = 0.9, over_clip: bool = False, start: str = "gaussians", noisy_slot: bool = False
) -> Masker:
    """Show the same places of a scene in all slots: int(h * w * (1 - ratio)) tokens of each, wherever they move.

    A map of Gaussians around h * w - int(ratio * h * w) random tokens is drawn in the base frame, and moved along
    the flow from frame to frame, outward from there. What comes from beyond the edge is taken from the drawn map.
    The tokens on which a slot's maps are largest are seen; of equal ones, which are seen is drawn.

    The batch has the flow from a guide (`methods.flow.raft`).

    Source: the official code of MGMAE.

    Args:
      ratio: the share of hidden tokens.
      over_clip: take the largest of the whole clip, as many as otherwise of all slots together.
      start: the map that is drawn: "gaussians" around random tokens, these "tokens" themselves, or as large a share of
        random "pixels".
      noisy_slot: add standard normal noise to the scores of one slot, which is drawn for each clip.

    Raises:
      ValueError: if the ratio is not in [0, 1) or the start is unknown; when it is used, if it leaves no token in a
        slot.
    """
    check_ratio(ratio)
    if start not in STARTS:
        raise ValueError(f"start={start!r}: it must be one of {', '.join(STARTS)}")

    def keep(grid: Grid) -> int:
        return grid.t * _visible(ratio, grid)

    def score(keys: Array, batch: Batch, grid: Grid) -> Float[Array, "b n"]:
        earlier, later = jnp.asarray(batch[EARLIER]), jnp.asarray(batch[LATER])
        height, width = earlier.shape[2:4]
        patch = (height // grid.h, width // grid.w)
        drawn = drawn_map(start, ratio, stream(keys, "centres"), grid, patch)
        maps = followed(drawn, earlier, later)
        if BASE in batch:  # one for each clip: of the frames before and after any base, those that the clip has
            shown = earlier.shape[1] - jnp.asarray(batch[BASE])[:, None] + jnp.arange(earlier.shape[1] + 1)
            maps = jax.vmap(lambda one, places: one[places])(maps, shown)
        found = _summed(maps, grid)
        if noisy_slot:
            found = found + jax.vmap(lambda key: _noise(key, grid))(stream(keys, "noise"))
        tokens = jnp.round(found / GRAIN)
        ties = ranks(stream(keys, "ties"), grid.slot)[:, None]
        ties = jnp.broadcast_to(ties, tokens.shape)  # the same in every slot
        if over_clip:
            tokens, ties = (one.reshape(len(tokens), 1, -1) for one in (tokens, ties))
        count = keep(grid) if over_clip else _visible(ratio, grid)
        return largest(tokens, ties, count).astype(jnp.float32).reshape(-1, grid.size)

    return Masker(keep, score, (EARLIER, LATER))


def _visible(ratio: float, grid: Grid) -> int:
    """The number of visible tokens of a slot."""
    count = int(grid.slot * (1 - ratio))
    if count < 1:
        raise ValueError(f"ratio={ratio} leaves no token of the {grid.slot} of a slot visible")
    return count


def drawn_map(start: str, ratio: float, keys: Array, grid: Grid, patch: tuple[int, int]) -> Float[Array, "b y x"]:
    """Return the map of the base frame, by a name of `STARTS`."""
    if start == "pixels":
        height, width = grid.h * patch[0], grid.w * patch[1]
        chosen = ranks(keys, height * width) < int(height * width * (1 - ratio))
        return jnp.where(chosen, 1.0, EMPTY).reshape(-1, height, width)
    order, count = ranks(keys, grid.slot), grid.slot - int(ratio * grid.slot)
    if start == "gaussians":
        return gaussians(order[:, :count].astype(jnp.int32), grid, patch)
    tokens = jnp.where(order < count, 1.0, EMPTY).reshape(-1, grid.h, grid.w)
    return jnp.repeat(jnp.repeat(tokens, patch[0], axis=1), patch[1], axis=2)


def _noise(key: Array, grid: Grid) -> Float[Array, "t n"]:
    """Return standard normal noise in one slot, and zeros in all others."""
    slot = jax.random.randint(stream(key, "slot"), (), 0, grid.t)
    noise = jax.random.normal(stream(key, "scores"), (grid.slot,))
    return jnp.where(jnp.arange(grid.t)[:, None] == slot, noise, 0.0)


def gaussians(places: Int[Array, "b k"], grid: Grid, patch: tuple[int, int]) -> Float[Array, "b y x"]:
    """Return maps of pixels: the largest of Gaussians around the centres of these tokens of a slot, 1 at most."""
    rows, columns = places // grid.w, places % grid.w

    def along(token: Array, size: int, length: int) -> Float[Array, "b k n"]:
        centre = token * size + (size - 1) / 2
        return jnp.exp(-jnp.square((jnp.arange(length) - centre[..., None]) / size))

    down, across = along(rows, patch[0], grid.h * patch[0]), along(columns, patch[1], grid.w * patch[1])
    found = (down[:, :, :, None] * across[:, :, None, :]).max(axis=1)
    return found / found.max(axis=(1, 2), keepdims=True)


def followed(
    drawn: Float[Array, "b y x"], earlier: Float[Array, "b m y x 2"], later: Float[Array, "b n y x 2"]
) -> Float[Array, "b t y x"]:
    """Return the maps of all frames of a clip.

    Args:
      drawn: of the base frame.
      earlier: the flow of each frame before it to the next one, from the base to the beginning.
      later: the flow of each frame after it to the one before, from the base to the end.
    """

    def step(known: Array, flow: Array) -> tuple[Array, Array]:
        new = moved(known, flow)
        new = jnp.where(new == 0, drawn, new)
        return new, new

    before, after = (jax.lax.scan(step, drawn, jnp.moveaxis(flow, 1, 0))[1] for flow in (earlier, later))
    return jnp.moveaxis(jnp.concatenate([before[::-1], drawn[None], after]), 0, 1)


def moved(known: Float[Array, "b y x"], flow: Float[Array, "b y x 2"]) -> Float[Array, "b y x"]:
    """Return a map at the places to which a flow leads, interpolated, zero beyond the edge.

    As in the official code a flow of n pixels leads over n * (side - 1) / side of them: it is divided by half of the
    side, and multiplied by half of the distance between the centres of the first and the last pixel.
    """
    height, width = known.shape[1:]
    x = jnp.arange(width) + flow[..., 0] * ((width - 1) / width)
    y = jnp.arange(height)[:, None] + flow[..., 1] * ((height - 1) / height)
    # A place far outside would have no whole number.
    x, y = jnp.clip(x, -2, width + 1), jnp.clip(y, -2, height + 1)
    left, top = jnp.floor(x), jnp.floor(y)
    flat, total = known.reshape(len(known), -1), 0.0
    for down in (0, 1):
        for right in (0, 1):
            column, row = left + right, top + down
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
            value = jax.vmap(jnp.take)(flat, index.astype(jnp.int32))
            weight = (1 - jnp.abs(x - column)) * (1 - jnp.abs(y - row))
            total = total + jnp.where(inside, value * weight, 0.0)
    return jnp.asarray(total)


def largest(scores: Float[Array, "*a n"], ties: Float[Array, "*a n"], count: int) -> Bool[Array, "*a n"]:
    """Return whether a score is among the `count` largest of its row; of equal ones, the smaller of `ties` is."""
    order = jnp.lexsort((ties, -scores), axis=-1)
    return jnp.argsort(order, axis=-1) < count


def _summed(maps: Float[Array, "b t y x"], grid: Grid) -> Float[Array, "b s n"]:
    """The sum of the maps over each cube, by slot."""
    b, frames, height, width = maps.shape
    split = (b, grid.t, frames // grid.t, grid.h, height // grid.h, grid.w, width // grid.w)
    return maps.reshape(split).sum(axis=(2, 4, 6)).reshape(b, grid.t, grid.slot)
