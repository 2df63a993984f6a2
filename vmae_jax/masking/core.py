"""A mask is a score: every strategy gives one number per token, and one function takes the top k.

Shapes are static because `keep` depends on the grid alone, never on random numbers.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Shaped

from vmae_jax.types import Batch, Grid, MaskPlan, stream, typed

__all__ = ["Masker", "check_ratio", "in_tokens", "plan", "ranks", "select"]


class Masker(NamedTuple):
    """A masking strategy.

    Attributes:
      keep: grid -> the number of tokens kept, a Python int, so that shapes are static.
      score: (keys [b], batch, grid) -> [b n]; the `keep` largest are kept.
      inputs: the streams of the batch that `score` reads besides those of the model.
      check: checks the first batch of a training, on the host; raises ConfigError if the strategy cannot work.
      allowed: (batch, grid) -> [b n], which tokens may be seen at all; where fewer than `keep` may, the list of visible
        tokens is padded. None: all.
      unit: the size in tokens (t, h, w) of the blocks that are kept or hidden as a whole.
    """

    keep: Callable[[Grid], int]
    score: Callable[[Array, Batch, Grid], Array]
    inputs: tuple[str, ...] = ()
    check: Callable[[Batch], None] | None = None
    allowed: Callable[[Batch, Grid], Array] | None = None
    unit: tuple[int, int, int] = (1, 1, 1)


def check_ratio(ratio: float) -> None:
    """Check the share of hidden tokens.

    Raises:
      ValueError: if the ratio is not in [0, 1).
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"a mask ratio must be in [0, 1), got {ratio} (0.9 hides 90% of the tokens)")


@typed
def ranks(keys: Key[Array, "b"], n: int) -> Float[Array, "b n"]:
    """Return a random permutation of 0 … n-1 for each key, as scores.

    Uniform draws in float32 are sometimes equal, and equal scores of two tubes would split both. The
    ranks of a permutation differ.
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
    """Return the plan that follows from scores.

    Args:
      scores: the encoder sees the `keep` tokens with the largest scores; of equal ones, the first.
      keep: the number of tokens that the encoder sees.
      decode: scores of which the decoder predicts the `decode_keep` largest; None: it predicts
        all tokens that the encoder does not see (VideoMAE).
      decode_keep: the number of tokens that the decoder predicts.

    Returns:
      A plan with ascending indices. A decoded token that the encoder saw has weight 0
      (VideoMAE V2: its loss is over tokens that are decoded and were hidden).

    Raises:
      ValueError: if nothing would be visible, or nothing predicted.
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
    # Row by row, so that a batch split over devices is not moved.
    unseen = jax.vmap(lambda seen: jnp.ones(n, jnp.float32).at[seen].set(0.0))(visible)
    return MaskPlan(visible=visible, decode=decoded, weight=jnp.take_along_axis(unseen, decoded, axis=1))


def plan(
    keys: Key[Array, "b"],
    batch: Batch,
    grid: Grid,
    encoder: Masker,
    decoder: Masker | None = None,
) -> MaskPlan:
    """Return the masks of a batch: tokens that `encoder` keeps are visible, those that `decoder` keeps are predicted.

    Args:
      keys: one key per example. The masks depend on these alone (and on the batch, if their
        scores do).
      batch: the batch, for scores that depend on data.
      grid: the token grid.
      encoder: the encoder's strategy.
      decoder: the decoder's; None: all hidden tokens are decoded (VideoMAE).
    """
    keep = encoder.keep(grid)
    scores = encoder.score(stream(keys, "encoder_mask"), batch, grid)
    if decoder is None:
        made = select(scores, keep)
    else:
        decode = decoder.score(stream(keys, "decoder_mask"), batch, grid)
        made = select(scores, keep, decode, decoder.keep(grid))
    made = dataclasses.replace(made, unit=encoder.unit)
    return made if encoder.allowed is None else _padded(made, encoder.allowed(batch, grid))


def _padded(made: MaskPlan, allowed: Bool[Array, "b n"]) -> MaskPlan:
    """Return a plan whose visible tokens that are not allowed are padding."""
    valid, predicted = (jnp.take_along_axis(allowed, index, axis=1) for index in (made.visible, made.decode))
    weight = jnp.where(predicted, made.weight, 1.0)  # also of those that only pad the list of visible ones
    some = valid.any(axis=1, keepdims=True)
    # Attention to nothing has no value: a row without any allowed token keeps its list and does not count.
    return dataclasses.replace(made, valid=valid | ~some, weight=weight * some)


def in_tokens(planes: Shaped[Array, "b t h w"], grid: Grid) -> Shaped[Array, "b t p h y w x"]:
    """Return planes of a clip by the token that each value is in, [b, grid.t, p, grid.h, y, grid.w, x].

    Raises:
      ValueError: if the planes do not divide into the tokens.
    """
    b, *sides = planes.shape
    if any(side % count for side, count in zip(sides, (grid.t, grid.h, grid.w), strict=True)):
        raise ValueError(f"planes of {'x'.join(map(str, sides))} do not divide into {grid} tokens (t x h x w)")
    t, h, w = sides
    return planes.reshape(b, grid.t, t // grid.t, grid.h, h // grid.h, grid.w, w // grid.w)
