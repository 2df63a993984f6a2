"""Assignments to clusters that are all used alike, by optimal transport (Sinkhorn & Knopp 1967, Cuturi 2013)."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["balance"]


def balance(
    scores: Float[Array, "b k c"], weight: Float[Array, "b k"], epsilon: float, iterations: int = 10
) -> Float[Array, "b k c"]:
    """Return logits whose softmax assigns tokens to clusters, each of which gets the same share of all tokens.

    The matrix exp(scores / epsilon) is scaled in turn so that all clusters get 1 / c, and all tokens give the share of
    their weight; the result is scaled for tokens last. It is computed with logarithms, in float32: exp of cosines over
    0.03 goes from e⁻³³ to e³³. No gradient flows from it.

    Args:
      scores: of each token for each cluster; all tokens of the global batch.
      weight: of each token; those of weight 0 do not take part, but are assigned.
      epsilon: the smaller, the harder the assignments.
      iterations: how often both are scaled.
    """
    scores = jax.lax.stop_gradient(scores.astype(jnp.float32)) / epsilon
    share = jnp.log(weight) - jnp.log(jnp.maximum(weight.sum(), 1e-12))
    clusters = scores.shape[-1]

    def scale(_: Array, tokens: Float[Array, "b k"]) -> Float[Array, "b k"]:
        return share - jax.nn.logsumexp(scores + _of_clusters(scores, tokens, clusters), axis=-1)

    # Before the first iteration tokens are not scaled, only those of weight 0 left out.
    tokens = jax.lax.fori_loop(0, iterations - 1, scale, jnp.where(weight > 0, 0.0, -jnp.inf))
    return scores + _of_clusters(scores, tokens, clusters)


def _of_clusters(scores: Float[Array, "b k c"], tokens: Float[Array, "b k"], clusters: int) -> Float[Array, " c"]:
    """The logarithm of what each cluster is scaled by."""
    return -math.log(clusters) - jax.nn.logsumexp(scores + tokens[..., None], axis=(0, 1))
