"""Masks that hide the parts of a face first, by a segmentation of each frame (MARLIN)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vmae_jax.masking.core import Masker, check_ratio, in_tokens, ranks
from vmae_jax.registry import register
from vmae_jax.types import Batch, Grid, stream

__all__ = ["face_parts"]

STREAM = "parts"
BACKGROUND, SKIN = 0, 1  # classes of a segmentation
PARTS = ((2, 4), (3, 5), (6,), (7, 8, 9), (10,))  # left and right eye with brow, nose, mouth, hair


@register("mask")
def face_parts(ratio: float = 0.9, parts: Sequence[Sequence[int]] = PARTS, order: str = "background_first") -> Masker:
    """Show background and skin before any part of the face, and then drop visible tokens to the same number everywhere.

    In each time slot the classes become visible one by one, by the segmentation of the slot's first frame, until a
    share of 1 - ratio of its tokens is visible; a token belongs to every class of which it has a pixel. The parts come
    in an order that is drawn for each clip. Of all visible tokens of a clip, int(n (1 - ratio)) stay, drawn at random,
    so slots may have different numbers of them. A slot without a face is visible as a whole before tokens are dropped.

    The batch has the stream "parts" (`data.streams.planes` of one channel, "nearest"), with the classes of LaPa: 0 is
    the background, 1 skin. Frames without a segmentation have no face.

    Args:
      ratio: the share of hidden tokens.
      parts: the classes of each part of a face.
      order: "background_first", or "parts_first": the parts, then skin, then background become visible.

    Raises:
      ValueError: if the ratio is not in [0, 1), the order is unknown, or a class is named twice; when it is used, if
        the planes do not divide into the tokens.
    """
    check_ratio(ratio)
    if order not in ("background_first", "parts_first"):
        raise ValueError(f"order={order!r}: it must be 'background_first' or 'parts_first'")
    named = [one for part in parts for one in part] + [BACKGROUND, SKIN]
    if len(set(named)) != len(named) or any(not 0 <= one < 256 for one in named) or not all(parts):
        raise ValueError(f"parts={[list(part) for part in parts]}: classes from 2 to 255, each in one part")
    groups = ((BACKGROUND,), (SKIN,), *map(tuple, parts))

    def score(keys: Array, batch: Batch, grid: Grid) -> Float[Array, "b n"]:
        present = _present(jnp.asarray(batch[STREAM]), groups, grid)
        drawn = jax.vmap(lambda key: jax.random.permutation(stream(key, "order"), len(parts)))(keys)
        fixed = jnp.broadcast_to(jnp.arange(2), (drawn.shape[0], 2))
        places = jnp.concatenate([fixed, 2 + drawn], axis=1)
        shown = _shown(present, places if order == "background_first" else places[:, ::-1], 1 - ratio)
        tie = ranks(stream(keys, "dropped"), grid.size)
        return tie + grid.size * shown.reshape(shown.shape[0], -1)

    return Masker(lambda grid: int(grid.size * (1 - ratio)), score, (STREAM,))


def _present(planes: Int[Array, "b t h w 1"], groups: Sequence[Sequence[int]], grid: Grid) -> Bool[Array, "b t g n"]:
    """Return which tokens have a pixel of which group, in the first frame of each slot."""
    first = in_tokens(planes[..., 0], grid)[:, :, 0]
    is_in = [jnp.isin(first, jnp.asarray(group)).any(axis=(3, 5)) for group in groups]
    return jnp.stack(is_in, axis=2).reshape(planes.shape[0], grid.t, len(groups), grid.slot)


def _shown(present: Bool[Array, "b t g n"], places: Int[Array, "b g"], share: float) -> Bool[Array, "b t n"]:
    """Return the tokens of the fewest groups, in their order, that are at least a share of a slot."""
    ordered = jnp.take_along_axis(present, places[:, None, :, None], axis=2)
    reached = jax.lax.cummax(ordered.astype(jnp.int32), axis=2) > 0
    enough = reached.mean(axis=-1) >= share
    count = jnp.where(enough.any(axis=-1), enough.argmax(axis=-1), places.shape[1] - 1)
    shown = jnp.take_along_axis(reached, count[:, :, None, None], axis=2)[:, :, 0]
    # Classes that no group names may leave too few: then the slot has no face that this mask can follow.
    return jnp.where(enough.any(axis=-1, keepdims=True), shown, True)
