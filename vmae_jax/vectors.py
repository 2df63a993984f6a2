"""Vectors over the last axis."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["unit"]

_LEAST = 1e-24  # of a squared length, so that zeros stay zeros and have a finite gradient


def unit(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Return vectors at length 1, in float32; zeros stay zeros."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), _LEAST))
