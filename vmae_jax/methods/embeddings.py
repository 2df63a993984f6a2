"""What shows whether embeddings collapse in training: their spread, and how many dimensions it has."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.types import Mean

__all__ = ["spread"]


def spread(x: Float[Array, "b d"], weight: Float[Array, "b"]) -> tuple[Mean, Mean]:
    """Return the standard deviation of embeddings, averaged over dimensions, and the rank of their covariance.

    The rank is the participation ratio (Σλ)² / Σλ² of the eigenvalues: d if the spread is the same in all directions, 1
    if it is in one alone or there is none (`eval.geometry.participation`). No gradient flows from either.

    Args:
      x: of any clips or tokens.
      weight: 0 for rows that do not count.
    """
    x, one = jax.lax.stop_gradient(x).astype(jnp.float32), jnp.float32(1.0)
    share = (weight / jnp.maximum(weight.sum(), 1e-12))[:, None]
    centred = x - (x * share).sum(axis=0)
    covariance = jnp.matmul((centred * share).T, centred)
    variances, squares = jnp.maximum(jnp.diagonal(covariance), 0.0), jnp.square(covariance).sum()
    rank = jnp.where(squares > 0, jnp.square(variances.sum()) / jnp.maximum(squares, 1e-30), 1.0)
    return Mean(jnp.sqrt(variances).mean(), one), Mean(rank, one)
