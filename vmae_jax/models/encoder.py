"""The encoder: embeds the cubes it is given and lets them attend to each other."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

from vmae_jax.models.layers import Dense, LayerNorm, Stack
from vmae_jax.models.parameters import declare
from vmae_jax.models.positions import Positions
from vmae_jax.scopes import part, tower
from vmae_jax.types import Grid, MaskPlan

__all__ = ["Encoder"]


def torch_default(fan_in: int) -> Any:
    """Uniform in ±1/sqrt(fan_in): what PyTorch gives a convolution, kernel and bias alike.

    The official code leaves its patch embedding so.
    """
    bound = 1.0 / math.sqrt(fan_in)

    def initialize(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize


class Encoder(nn.Module):
    """A vision transformer over whichever cubes it is given.

    Attributes:
      grid: the token grid of a whole clip, for the positions.
      width: of the tokens.
      blocks: arguments of `Stack`.
      positions: where the tokens are.
      final_norm: a norm after the last block (pre-training has one; a classifier norms the mean).
      dtype: of the matrix products.
      prefix: learned tokens that stand before those of the clip (MAE-ST's class token, with its
        position in it), and come out before them.
    """

    grid: Grid
    width: int
    blocks: dict[str, Any]
    positions: Positions
    final_norm: bool = True
    dtype: Any = jnp.float32
    prefix: int = 0

    @nn.compact
    @tower("encoder")
    def __call__(
        self, cubes: Float[Array, "b v p"], plan: MaskPlan, keys: Array | None = None
    ) -> Float[Array, "b n d"]:
        """Encodes the visible cubes: n = prefix + v tokens.

        Args:
          cubes: the cubes of `plan.visible`, normalised.
          plan: their places; `plan.valid` marks padding.
          keys: one key an example for drop path; None drops nothing.
        """
        init = torch_default(cubes.shape[-1])
        options = {"kernel_init": init, "bias_init": init, "dtype": self.dtype, "layer": 0}
        embed = Dense(self.width, ("cube", "embed"), **options, name="embed")
        with part("embed"):
            x = embed(cubes) + self.positions(self.grid, self.width)(plan.visible).astype(self.dtype)
        valid = plan.valid
        if self.prefix:
            init = declare(initializers.truncated_normal(0.02), None, "embed", decay=False, layer=0)
            token = jnp.asarray(self.param("prefix_token", init, (self.prefix, self.width))).astype(self.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], *token.shape)), x], axis=1)
            valid = None if valid is None else jnp.pad(valid, ((0, 0), (self.prefix, 0)), constant_values=True)
        x = nn.with_logical_constraint(x, ("batch", "tokens", None))
        x = Stack(**self.blocks, dtype=self.dtype, name="blocks")(x, keys, valid)
        return LayerNorm(self.dtype, name="norm")(x) if self.final_norm else x

    def shallow(self, params: Any, depth: int) -> tuple["Encoder", Any]:
        """The first `depth` blocks alone, without the final norm, and their share of `params`."""
        if not 0 <= depth <= self.blocks["depth"]:
            raise ValueError(f"layer {depth}: the encoder has {self.blocks['depth']} blocks")
        encoder = self.clone(blocks={**self.blocks, "depth": depth}, final_norm=False)
        blocks = jax.tree.map(lambda leaf: leaf[:depth], params["blocks"])
        return encoder, {**{k: v for k, v in params.items() if k != "norm"}, "blocks": blocks}
