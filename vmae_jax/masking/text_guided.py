"""Masks that follow a caption: what matches it best is hidden (TGM)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.masking.core import Masker, check_ratio, ranks
from vmae_jax.masking.flow_guided import largest
from vmae_jax.registry import register
from vmae_jax.resampling import linear, matrix
from vmae_jax.types import Batch, Grid, stream

__all__ = ["SIMILARITY", "text_guided"]

SIMILARITY = "similarity"  # of the annotated batch


@register("mask")
def text_guided(ratio: float = 0.6, least: bool = False) -> Masker:
    """Hide in each time slot the int(ratio * h * w) tokens that are most similar to the clip's caption.

    Of equally similar tokens, which are hidden is drawn, the same in all slots. So a clip without a caption, whose
    tokens are all equal, has a tube.

    The batch has the similarities of each frame's patches, "similarity" [b frames rows columns], which `methods.tgm`
    takes from CLIP. They are averaged over the frames of a slot; if the rows and columns are not those of the tokens,
    they are interpolated.

    Args:
      ratio: the share of hidden tokens.
      least: hide those that are least similar instead.

    Raises:
      ValueError: if the ratio is not in [0, 1); when it is used, if frames do not divide into slots.
    """
    check_ratio(ratio)

    def visible(grid: Grid) -> int:
        return grid.slot - int(ratio * grid.slot)

    def score(keys: Array, batch: Batch, grid: Grid) -> Float[Array, "b n"]:
        similar = _by_token(jnp.asarray(batch[SIMILARITY], jnp.float32), grid)
        ties = jnp.broadcast_to(ranks(stream(keys, "ties"), grid.slot)[:, None], similar.shape)
        return largest(similar if least else -similar, ties, visible(grid)).astype(jnp.float32).reshape(len(keys), -1)

    return Masker(lambda grid: grid.t * visible(grid), score, (SIMILARITY,))


def _by_token(similar: Float[Array, "b t y x"], grid: Grid) -> Float[Array, "b s n"]:
    """The similarity of each token, by slot."""
    b, frames, rows, columns = similar.shape
    if frames % grid.t:
        raise ValueError(f"similarities of {frames} frames do not divide into {grid.t} slots")
    similar = similar.reshape(b, grid.t, frames // grid.t, rows, columns).mean(axis=2)
    if (rows, columns) != (grid.h, grid.w):
        down, across = (jnp.asarray(matrix(*one, linear), jnp.float32) for one in ((rows, grid.h), (columns, grid.w)))
        similar = jnp.einsum("yh,xw,bthw->btyx", down, across, similar, precision="highest")
    return similar.reshape(b, grid.t, grid.slot)
