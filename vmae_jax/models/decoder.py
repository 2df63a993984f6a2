"""The decoder: from encoded visible tokens and mask tokens to predictions of hidden cubes."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

from vmae_jax.models.layers import Dense, LayerNorm, Stack
from vmae_jax.models.parameters import declare
from vmae_jax.models.positions import Positions
from vmae_jax.scopes import part, tower
from vmae_jax.types import Grid, MaskPlan

__all__ = ["Decoder"]


class Decoder(nn.Module):
    """A narrow transformer over [prefix | visible tokens | a mask token for every decoded place].

    A decoded place that the encoder saw gets a mask token as well, as in the official code; only
    the outputs of the mask tokens are used. One linear head an objective, run on those alone.

    Attributes:
      grid, width, blocks, positions, dtype: as the encoder's.
      heads: the size of each objective's prediction, by name.
      prefix: how many tokens the encoder puts before those of the clip. They are left out, and as many
        learned ones of the decoder's own stand there, with their positions in them (MAE-ST).
    """

    grid: Grid
    width: int
    blocks: dict[str, Any]
    positions: Positions
    heads: Mapping[str, int]
    dtype: Any = jnp.float32
    prefix: int = 0

    @nn.compact
    @tower("decoder")
    def __call__(self, encoded: Float[Array, "b n d"], plan: MaskPlan) -> dict[str, Float[Array, "b k p"]]:
        """Predictions at `plan.decode`, float32, by objective."""
        project = Dense(self.width, ("embed", None), use_bias=False, dtype=self.dtype, name="project")
        with part("project"):
            visible = project(encoded[:, self.prefix :])
        init = declare(initializers.truncated_normal(0.02, lower=-1, upper=1), None, decay=False)
        mask = self.param("mask_token", init, (self.width,))
        positions = self.positions(self.grid, self.width)
        before = []
        if self.prefix:
            init = declare(initializers.truncated_normal(0.02), None, None, decay=False)
            token = jnp.asarray(self.param("prefix_token", init, (self.prefix, self.width))).astype(self.dtype)
            before = [jnp.broadcast_to(token, (len(visible), *token.shape))]
        x = jnp.concatenate(
            [
                *before,
                visible + positions(plan.visible).astype(self.dtype),
                mask.astype(self.dtype) + positions(plan.decode).astype(self.dtype),
            ],
            axis=1,
        )
        x = nn.with_logical_constraint(x, ("batch", "tokens", None))
        x = Stack(**self.blocks, first_layer=None, dtype=self.dtype, name="blocks")(x, valid=self._valid(plan))
        x = LayerNorm(self.dtype, name="norm")(x[:, -plan.decode.shape[1] :])
        with part("head"):
            return {
                name: Dense(size, ("embed", "cube"), dtype=self.dtype, name=f"head_{name}")(x).astype(jnp.float32)
                for name, size in self.heads.items()
            }

    def _valid(self, plan: MaskPlan) -> Array | None:
        if plan.valid is None:
            return None
        real = jnp.pad(plan.valid, ((0, 0), (self.prefix, 0)), constant_values=True)
        return jnp.concatenate([real, jnp.ones(plan.decode.shape, bool)], axis=1)
