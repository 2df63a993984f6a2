"""Scaled dot-product attention, in one place, so that a platform's best form is chosen here."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vmae_jax.types import typed

__all__ = ["attend"]


@typed
def attend(
    query: Float[Array, "b h n k"],
    key: Float[Array, "b h m k"],
    value: Float[Array, "b h m k"],
    *,
    valid: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b h n k"]:
    """softmax(query · keyᵀ) · value, with the softmax in float32; `query` comes scaled.

    Args:
      query, key, value: heads before tokens.
      valid: False where a key is padding, which no query sees.
    """
    scores = jnp.einsum("bhnk,bhmk->bhnm", query, key, preferred_element_type=jnp.float32)
    if valid is not None:
        scores = jnp.where(valid[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhnm,bhmk->bhnk", weights, value)
