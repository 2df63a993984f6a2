"""The sampling network of AdaMAE: a distribution over a clip's tokens, from which the visible ones are drawn."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

from vmae_jax.models.dropout import dropped
from vmae_jax.models.layers import Attention, Dense, LayerNorm, Mlp
from vmae_jax.models.parameters import declare
from vmae_jax.scopes import part, tower

__all__ = ["Sampler"]

EPSILON = 1e-5  # of its norms; those of encoder and decoder have 1e-6


class Sampler(nn.Module):
    """A transformer block and a linear layer over the embedded tokens, then a softmax over the tokens.

    Attributes:
      width: the width of the tokens.
      heads: the attention's number of heads; its queries and values have no biases.
      mlp_ratio: the width of the MLP relative to that of the tokens.
      dropout: the rate after the attention and after the MLP.
      dtype: the dtype of the matrix products.
    """

    width: int
    heads: int = 8
    mlp_ratio: float = 4.0
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    @tower("sampler")
    def __call__(self, tokens: Float[Array, "b n d"], keys: Array | None = None) -> Float[Array, "b n"]:
        """Return float32 probabilities.

        Args:
          tokens: all embedded tokens of a clip, without positions.
          keys: one key per example, for dropout; None disables it.
        """
        init = declare(initializers.zeros, None, "embed", decay=True)
        x = tokens + jnp.asarray(self.param("positions", init, tokens.shape[1:])).astype(self.dtype)
        y = LayerNorm(self.dtype, EPSILON, name="norm1")(x)
        y = Attention(self.heads, biases="", dtype=self.dtype, name="attention")(y)
        x = x + dropped(y, keys, "attention", self.dropout)
        y = LayerNorm(self.dtype, EPSILON, name="norm2")(x)
        y = Mlp(int(self.width * self.mlp_ratio), dtype=self.dtype, name="mlp")(y)
        x = x + dropped(y, keys, "mlp", self.dropout)
        with part("head"):
            logits = Dense(1, ("embed", None), name="head")(x.astype(jnp.float32))[..., 0]
        return jax.nn.softmax(jnp.nan_to_num(logits), axis=-1)
