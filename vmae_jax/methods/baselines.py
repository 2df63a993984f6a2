"""Losses of predictors that look at nothing, which a latent loss must stay below to mean something.

The targets of a latent method move, so its loss alone shows nothing: it falls while features collapse. Beside it belong
the loss of the mean (each prediction is the mean of the clip's targets) and that of a copy (each prediction is the
target at the nearest visible token). A loss near them is that of a predictor which learned no more; all of them fall
to 0 together if features become constant. The figures of a clip do not depend on other clips, so micro-batches change
nothing.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vmae_jax.targets.core import Penalty
from vmae_jax.types import Grid, MaskPlan, Mean

__all__ = ["loss_of", "mean_targets", "nearest_visible", "offsets"]


def mean_targets(targets: Float[Array, "b k d"], weight: Float[Array, "b k"]) -> Float[Array, "b k d"]:
    """Return the weighted mean of each clip's targets at each of their positions."""
    count = jnp.maximum(weight.sum(axis=1), 1.0)[:, None, None]
    mean = (targets * weight[..., None]).sum(axis=1, keepdims=True) / count
    return jnp.broadcast_to(mean, targets.shape)


def nearest_visible(masks: MaskPlan, grid: Grid) -> Int[Array, "b k"]:
    """Return the visible token that is nearest to each predicted one, by the steps between them in the grid.

    Of several, it is the first in the order of tokens. The targets there are the prediction of a copy.
    """
    apart = jnp.asarray(sum(jnp.abs(steps) for steps in offsets(masks.decode, masks.visible, grid)))
    if masks.valid is not None:
        apart = jnp.where(masks.valid[:, None, :], apart, grid.size)
    return jnp.take_along_axis(masks.visible, apart.argmin(axis=-1), axis=1)


def offsets(one: Int[Array, "b k"], other: Int[Array, "b v"], grid: Grid) -> list[Int[Array, "b k v"]]:
    """Return the steps between tokens of two lists, along t, h and w.

    They are apart by axis: a table of all pairs with their axes would not fit into memory at full size.
    """
    shape = (grid.t, grid.h, grid.w)
    pairs = zip(*(jnp.unravel_index(tokens, shape) for tokens in (one, other)), strict=True)
    return [left[:, :, None] - right[:, None, :] for left, right in pairs]


def loss_of(
    predictions: Float[Array, "b k d"], targets: Float[Array, "b k d"], weight: Float[Array, "b k"], penalty: Penalty
) -> Mean:
    """Return the loss of predictions as a metric, averaged like a term of the loss.

    Args:
      weight: of each prediction; 0 where nothing is predicted.
      penalty: of the errors.
    """
    error = penalty(predictions, targets).mean(axis=-1)
    return Mean(jnp.where(weight > 0, error * weight, 0.0).sum(), weight.sum())
