"""SIGReg (Balestriero & LeCun 2025): how far embeddings are from a standard normal distribution, in any direction.

Along a random direction, the characteristic function of the embeddings is compared with that of the normal
distribution (Epps & Pulley 1983). Where all directions agree, the embeddings have the identity as their covariance, so
they cannot collapse.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

__all__ = ["directions", "divergence"]

KNOTS, END = 17, 3.0  # of the integral over the characteristic function


def directions(key: Key[Array, ""], width: int, count: int) -> Float[Array, "d k"]:
    """Return unit vectors that point in all directions alike."""
    drawn = jax.random.normal(key, (width, count))
    return drawn / jnp.linalg.norm(drawn, axis=0)


def divergence(
    embeddings: Float[Array, "b v d"], valid: Bool[Array, "b"], axes: Float[Array, "d k"]
) -> Float[Array, ""]:
    """Return S / N, averaged over views and directions; N is the number of clips.

    S of LeJEPA is N times this: about 1.05 for a standard normal distribution whatever N is, while constant embeddings
    have S / N = 0.402.

    Args:
      embeddings: of the views of each clip; the clips of one view are a sample.
      valid: False for clips that only pad the batch.
      axes: unit vectors, the same for all views.
    """
    share = valid / jnp.maximum(valid.sum(), 1)
    shown = jnp.einsum("bvd,dk->bvk", embeddings.astype(jnp.float32), axes, precision="highest")
    knots = np.linspace(0.0, END, KNOTS, dtype=np.float32)
    gauss = np.exp(-0.5 * knots**2)
    weights = 2 * END / (KNOTS - 1) * gauss
    weights[[0, -1]] /= 2

    @jax.checkpoint
    def knot(total: Array, at: tuple[Array, Array, Array]) -> tuple[Array, None]:
        place, normal, weight = at
        real, imaginary = (jnp.einsum("b,bvk->vk", share, part(place * shown)) for part in (jnp.cos, jnp.sin))
        return total + weight * (jnp.square(real - normal) + jnp.square(imaginary)).mean(), None

    return jax.lax.scan(knot, jnp.float32(0.0), tuple(map(jnp.asarray, (knots, gauss, weights))))[0]
