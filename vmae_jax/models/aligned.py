"""Heads that map tokens to directions, to be compared with those of a teacher (UMT)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.models.layers import Dense, LayerNorm
from vmae_jax.scopes import part, tower
from vmae_jax.vectors import unit

__all__ = ["Aligned"]


class Aligned(nn.Module):
    """A linear layer, a norm and division by the length for each of several kinds of tokens, by name.

    Attributes:
      sizes: of the results.
      dtype: of the matrix products.
      initial: the initial values, a key of `models.initial.SCHEMES`.
    """

    sizes: Mapping[str, int]
    dtype: Any = jnp.float32
    initial: str = "videomae"

    @nn.compact
    @tower("heads")
    def __call__(self, tokens: Mapping[str, Float[Array, "... d"]]) -> dict[str, Float[Array, "... e"]]:
        """Return unit vectors, float32, of the tokens of each name."""
        options = {"initial": self.initial, "dtype": self.dtype}
        found = {}
        for name, size in self.sizes.items():
            with part("head"):
                x = Dense(size, ("embed", None), **options, name=f"head_{name}")(tokens[name])
            found[name] = unit(LayerNorm(name=f"norm_{name}")(x))
        return found
