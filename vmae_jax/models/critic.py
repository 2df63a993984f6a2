"""A critic: how real the pixels of a cube look, as one number (MARLIN)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.models.layers import Dense
from vmae_jax.scopes import tower

__all__ = ["Critic"]

SLOPE = 0.01  # of the leaky ReLU, PyTorch's default


class Critic(nn.Module):
    """A perceptron with one hidden layer and a leaky ReLU.

    Attributes:
      hidden: the width of the hidden layer.
      dtype: the dtype of its matrix product.
    """

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    @tower("critic")
    def __call__(self, cubes: Float[Array, "b k p"]) -> Float[Array, "b k"]:
        """Return a float32 number for each cube, larger for those that look real."""
        x = Dense(self.hidden, ("cube", "mlp"), dtype=self.dtype, name="fc1")(cubes.astype(self.dtype))
        return Dense(1, ("mlp", None), name="fc2")(jax.nn.leaky_relu(x, SLOPE).astype(jnp.float32))[..., 0]
