"""Dropout that is a function of each example's own key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.types import stream

__all__ = ["dropped"]


def dropped(x: Float[Array, "b ..."], keys: Array | None, name: str, rate: float) -> Float[Array, "b ..."]:
    """Return `x` with a share of its values set to zero and the others scaled up; without keys, `x` itself.

    Args:
      x: one row an example.
      keys: one key an example, so that the draw is the same in any micro-batch.
      name: of the random stream; each place where values are dropped has one of its own.
      rate: the share.
    """
    if keys is None or not rate:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(stream(keys, name))
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)
