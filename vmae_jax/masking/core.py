"""A mask is a score: every strategy gives one number a token, one function takes the top k.

Shapes are static by construction: `keep` depends on the grid alone, never on the draw.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vmae_jax.types import Batch, Grid, MaskPlan, stream, typed

__all__ = ["Masker", "check_ratio", "plan", "ranks", "select"]


class Masker(NamedTuple):
    """A masking strategy.

    Attributes:
      keep: how many tokens of a grid survive; a Python int, so that shapes are static.
      score: (keys [b], batch, grid) -> [b n]; the `keep` largest survive.
      inputs: the streams of the batch that `score` reads beside those of the model.
      check: looks at the first batch of a training, on the host, and raises ConfigError where the strategy cannot work.
    """

    keep: Callable[[Grid], int]
    score: Callable[[Array, Batch, Grid], Array]
    inputs: tuple[str, ...] = ()
    check: Callable[[Batch], None] | None = None


def check_ratio(ratio: float) -> None:
    """Refuses a share that would hide nothing of what it should, or everything.

    Raises:
      ValueError: the ratio is not in [0, 1).
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"a mask ratio lies in [0, 1), not {ratio}: 0.9 hides 90% of the tokens")


@typed
def ranks(keys: Key[Array, "b"], n: int) -> Float[Array, "b n"]:
    """A random permutation of 0 … n-1 for each key, as scores.

    Uniform draws in float32 tie now and then, and a tie between two tubes would split them;
    the ranks of a permutation never do.
    """
    permute = jax.vmap(lambda key: jax.random.permutation(key, n))
    return permute(keys).astype(jnp.float32)


@typed
def select(
    scores: Float[Array, "b n"],
    keep: int,
    decode: Float[Array, "b n"] | None = None,
    decode_keep: int = 0,
) -> MaskPlan:
    """The plan that scores imply.

    Args:
      scores: the encoder sees the `keep` tokens of largest score; among equals, the earlier.
      keep: how many the encoder sees.
      decode: the decoder predicts the `decode_keep` tokens of largest score here; None predicts
        exactly what the encoder does not see (VideoMAE V1).
      decode_keep: how many the decoder predicts.

    Returns:
      A plan with ascending indices. A decoded token that the encoder saw has weight 0
      (VideoMAE V2: its loss is over tokens that are decoded and were hidden).

    Raises:
      ValueError: a count that leaves nothing to see or nothing to predict.
    """
    b, n = scores.shape
    hidden = n - keep
    if not 0 < keep <= n or (decode is None and hidden == 0) or (decode is not None and not 0 < decode_keep <= n):
        raise ValueError(
            f"of {n} tokens the encoder would see {keep} and the decoder predict "
            f"{hidden if decode is None else decode_keep}: there must be some of each"
        )
    order = jnp.argsort(-scores, axis=1, stable=True)
    visible = jnp.sort(order[:, :keep], axis=1)
    if decode is None:
        decoded = jnp.sort(order[:, keep:], axis=1)
        return MaskPlan(visible=visible, decode=decoded, weight=jnp.ones((b, hidden), jnp.float32))
    decoded = jnp.sort(jnp.argsort(-decode, axis=1, stable=True)[:, :decode_keep], axis=1)
    # By row, so that a batch split over devices stays where it is.
    unseen = jax.vmap(lambda seen: jnp.ones(n, jnp.float32).at[seen].set(0.0))(visible)
    return MaskPlan(visible=visible, decode=decoded, weight=jnp.take_along_axis(unseen, decoded, axis=1))


def plan(
    keys: Key[Array, "b"],
    batch: Batch,
    grid: Grid,
    encoder: Masker,
    decoder: Masker | None = None,
) -> MaskPlan:
    """The masks of a batch: what `encoder` keeps is seen, what `decoder` keeps is predicted.

    Args:
      keys: one key an example; the masks are functions of these alone (and of the batch, for
        masks that look at it).
      batch: what a data-dependent score may read.
      grid: the token grid.
      encoder: the encoder's strategy.
      decoder: the decoder's; None decodes all that is hidden (VideoMAE V1).
    """
    keep = encoder.keep(grid)
    scores = encoder.score(stream(keys, "encoder_mask"), batch, grid)
    if decoder is None:
        return select(scores, keep)
    decode = decoder.score(stream(keys, "decoder_mask"), batch, grid)
    return select(scores, keep, decode, decoder.keep(grid))
