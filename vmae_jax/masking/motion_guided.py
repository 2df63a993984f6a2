"""Motion-guided masking: a rectangle that follows what moves, by the codec's motion vectors (MGM)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vmae_jax.masking.core import Masker, check_ratio, ranks
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError
from vmae_jax.types import Batch, Grid, stream

__all__ = ["motion_guided"]

STREAM = "motion"
BOX = 3  # tokens a side over which motion is averaged
ASPECT = 4 / 3  # of a rectangle, at most
CODECS = "H.264, MPEG-4 Part 2, MPEG-1 and MPEG-2"


@register("mask")
def motion_guided(ratio: float = 0.75, camera: bool = False) -> Masker:
    """Hide a rectangle in each time slot, and the tokens nearest to it, round(ratio * h * w) of them in all.

    Its centre is the token around which the codec's motion vectors are longest; in slots in which nothing moves, or
    which have no vectors, it is interpolated between its neighbours. Its shape is drawn for each clip. In a clip in
    which nothing moves the rectangle stays where it is drawn; in one without any vectors it moves evenly.

    The batch has the stream "motion" (`data.streams.motion`), whose cells divide the tokens.

    Source: the abstract of the paper (Fan et al. 2023), whose code is not public. How centres, shapes and slots
    without vectors are treated is our reading of it.

    Args:
      ratio: the share of hidden tokens.
      camera: subtract each frame's median vector first, as a camera moves all of them.

    Raises:
      ValueError: if the ratio is not in [0, 1); when it is used, if cells of the stream do not divide the tokens.
    """
    check_ratio(ratio)

    def score(keys: Array, batch: Batch, grid: Grid) -> Float[Array, "b n"]:
        length, known = _moving(batch, grid, camera)
        place = jax.vmap(lambda *row: _centres(*row, grid=grid))(
            keys, length, known, jnp.asarray(batch[f"{STREAM}_valid"])
        )
        hidden = _hidden(ratio, grid)
        return jax.vmap(lambda key, centre: _visible(key, centre, hidden, grid))(keys, place)

    return Masker(lambda grid: grid.t * (grid.slot - _hidden(ratio, grid)), score, (STREAM,), _check)


def _hidden(ratio: float, grid: Grid) -> int:
    return round(ratio * grid.slot)


def _check(batch: Batch) -> None:
    valid = np.asarray(batch["valid"], bool)
    if valid.any() and not np.asarray(batch[f"{STREAM}_valid"])[valid].any():
        raise ConfigError(
            f"masking.motion_guided: none of the {valid.sum()} clips of the first batch has motion vectors; the codecs "
            f"that have them are {CODECS}: convert the videos, for example with ffmpeg -i IN -c:v libx264 OUT.mp4"
        )


def _moving(batch: Batch, grid: Grid, camera: bool) -> tuple[Float[Array, "b t h w"], Bool[Array, "b t"]]:
    """Return the mean length of the vectors of each token, averaged over a box, and which slots have motion."""
    vectors, has = jnp.asarray(batch[STREAM], jnp.float32), jnp.asarray(batch[f"{STREAM}_mask"], bool)
    b, frames, rows, columns, _ = vectors.shape
    if frames % grid.t or rows % grid.h or columns % grid.w:
        raise ValueError(
            f"motion vectors of {frames}x{rows}x{columns} cells do not divide into {grid} tokens (t x h x w): set "
            "cell= of data.streams.motion so that the patch is a multiple of it"
        )
    if camera:
        vectors = vectors - jnp.median(vectors, axis=(2, 3), keepdims=True)
    length = jnp.where(has[:, :, None, None], jnp.linalg.norm(vectors, axis=-1), 0.0)
    split = (b, grid.t, frames // grid.t, grid.h, rows // grid.h, grid.w, columns // grid.w)
    count = jnp.maximum(has.reshape(b, grid.t, -1).sum(axis=2), 1)[:, :, None, None]
    tokens = length.reshape(split).mean(axis=(4, 6)).sum(axis=2) / count
    moving = jax.lax.reduce_window(tokens, 0.0, jax.lax.add, (1, 1, BOX, BOX), (1, 1, 1, 1), "SAME") / BOX**2
    return moving, moving.max(axis=(2, 3)) > 0


def _centres(
    key: Array, moving: Float[Array, "t h w"], known: Array, valid: Array, *, grid: Grid
) -> Float[Array, "t 2"]:
    """Return the row and column of the rectangle's centre in each slot; of equal places one is drawn for all slots."""
    drawn = jax.random.uniform(stream(key, "start"), (2,))
    speed = jax.random.uniform(stream(key, "speed"), (2,), minval=-1.0)
    order = ranks(stream(key, "places")[None], grid.slot)[0]
    flat = moving.reshape(grid.t, -1)
    best = jnp.where(flat >= flat.max(axis=1, keepdims=True), order, -1.0).argmax(axis=1)
    found = jnp.stack(jnp.unravel_index(best, (grid.h, grid.w)), axis=1).astype(jnp.float32)
    slots, size = jnp.arange(grid.t), jnp.asarray([grid.h - 1, grid.w - 1], jnp.float32)
    before = jax.lax.cummax(jnp.where(known, slots, -1))
    after = jax.lax.cummin(jnp.where(known, slots, grid.t), reverse=True)
    first, last = jnp.where(before < 0, after, before), jnp.where(after >= grid.t, before, after)
    first, last = (jnp.clip(one, 0, grid.t - 1) for one in (first, last))
    share = jnp.where(last > first, (slots - first) / jnp.maximum(last - first, 1), 0.0)[:, None]
    followed = found[first] * (1 - share) + found[last] * share
    # A clip without vectors: over all slots the centre moves by one side of the grid at most.
    pace = jnp.where(valid, 0.0, speed)
    alone = size * jnp.clip(drawn + pace * (slots / grid.t)[:, None], 0.0, 1.0)
    return jnp.where(known.any(), followed, alone)


def _visible(key: Array, centres: Float[Array, "t 2"], hidden: int, grid: Grid) -> Array:
    """Return 1 for the tokens that are seen: all but the `hidden` ones in and nearest to each slot's rectangle."""
    room = np.log(ASPECT)
    aspect = jnp.exp(jax.random.uniform(stream(key, "aspect"), minval=-room, maxval=room))
    tall = jnp.clip(jnp.round(jnp.sqrt(hidden * aspect)), max(1, -(-hidden // grid.w)), grid.h)
    side = jnp.stack([tall, jnp.clip(hidden // tall, 1, grid.w)])
    corner = jnp.clip(jnp.round(centres - (side - 1) / 2), 0, jnp.asarray([grid.h, grid.w]) - side)
    places = np.stack(np.unravel_index(np.arange(grid.slot), (grid.h, grid.w)), axis=1).astype(np.float32)
    beyond = jnp.maximum(corner[:, None] - places, places - (corner + side - 1)[:, None])
    distance = jnp.square(jnp.maximum(beyond, 0.0)).sum(axis=-1).astype(jnp.int32)
    ties = ranks(stream(key, "ties")[None], grid.slot)[0].astype(jnp.int32)
    order = jnp.argsort(jnp.argsort(distance * grid.slot + ties, axis=1), axis=1)
    return (order >= hidden).astype(jnp.float32).reshape(-1)
