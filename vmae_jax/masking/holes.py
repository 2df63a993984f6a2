"""Masks that come with the data: what is missing of a video is hidden, and can be filled in."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vmae_jax.masking.core import Masker, check_ratio, in_tokens, ranks
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError
from vmae_jax.types import Batch, Grid

__all__ = ["holes"]

STREAM = "holes"


@register("mask")
def holes(ratio: float = 0.5) -> Masker:
    """Hide every token that touches a hole of its pictures, and random others until int(ratio * n) are hidden.

    Holes are pixels that are missing: damaged, covered, or not rendered. The batch has the stream "holes"
    (`data.streams.planes` of one channel, "nearest"), which is not 0 where a pixel is missing; frames without a plane
    have no hole. All hidden tokens are predicted. If more than int(ratio * n) tokens touch a hole, none of them is seen
    either, and that many are predicted, drawn at random: the list of visible tokens is padded. A clip without an intact
    token does not count.

    Args:
      ratio: the share of hidden tokens, which should be at least the largest share that touches a hole.

    Raises:
      ValueError: if the ratio is not in [0, 1); when it is used, if the planes do not divide into the tokens.
    """
    check_ratio(ratio)

    def score(keys: Array, batch: Batch, grid: Grid) -> Float[Array, "b n"]:
        return ranks(keys, grid.size) + grid.size * _intact(batch, grid)

    return Masker(lambda grid: grid.size - int(ratio * grid.size), score, (STREAM,), _check, _intact)


def _intact(batch: Batch, grid: Grid) -> Bool[Array, "b n"]:
    """Return which tokens touch no hole."""
    known = jnp.asarray(batch[f"{STREAM}_mask"])[:, :, None, None]
    missing = in_tokens((jnp.asarray(batch[STREAM])[..., 0] != 0) & known, grid)
    return ~missing.any(axis=(2, 4, 6)).reshape(-1, grid.size)


def _check(batch: Batch) -> None:
    valid = np.asarray(batch["valid"], bool)
    if valid.any() and not np.asarray(batch[f"{STREAM}_valid"])[valid].any():
        raise ConfigError(
            f"masking.holes: none of the {valid.sum()} clips of the first batch has planes of holes: put a zip of PNGs "
            "beside each video (data.sides.beside), and name it in data.streams"
        )
