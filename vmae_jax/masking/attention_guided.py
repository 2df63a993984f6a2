"""Masks that keep what a teacher attends to (UMT)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.masking.core import Masker, check_ratio
from vmae_jax.registry import register
from vmae_jax.types import Batch, Grid

__all__ = ["STREAM", "attention_guided"]

STREAM = "attention"
LEAST = 1e-30  # of an attention, so that its logarithm is finite


@register("mask")
def attention_guided(ratio: float = 0.8) -> Masker:
    """Hide int(ratio * h * w) tokens in each time slot; the visible ones are drawn by the attention that they receive.

    They are drawn without replacement, the next one always in proportion to the attention of those that are left. The
    batch has the attention of every token, "attention" [b n], which `methods.umt` takes from its teacher; its scale is
    of no importance.

    Args:
      ratio: the share of hidden tokens.

    Raises:
      ValueError: if the ratio is not in [0, 1).
    """
    check_ratio(ratio)

    def visible(grid: Grid) -> int:
        return grid.slot - int(ratio * grid.slot)

    def score(keys: Array, batch: Batch, grid: Grid) -> Float[Array, "b n"]:
        given = jnp.asarray(batch[STREAM], jnp.float32).reshape(-1, grid.t, grid.slot)
        # The largest of log(weight) plus Gumbel noise are a draw without replacement (Plackett and Luce).
        noise = jax.vmap(lambda key: jax.random.gumbel(key, (grid.t, grid.slot)))(keys)
        order = jnp.argsort(-(jnp.log(jnp.maximum(given, LEAST)) + noise), axis=-1, stable=True)
        place = jnp.argsort(order, axis=-1)
        return (place < visible(grid)).astype(jnp.float32).reshape(len(given), -1)

    return Masker(lambda grid: grid.t * visible(grid), score, (STREAM,))
