"""The decoder: from encoded visible tokens and mask tokens to predictions of hidden cubes."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.models.encoder import prefix_tokens
from vmae_jax.models.initial import SCHEMES
from vmae_jax.models.layers import Dense, LayerNorm
from vmae_jax.models.parameters import declare
from vmae_jax.models.positions import Positions
from vmae_jax.models.rotary import Rotation, rotation
from vmae_jax.models.stack import Stack
from vmae_jax.scopes import part, tower
from vmae_jax.types import Grid, MaskPlan

__all__ = ["Decoder"]


class Decoder(nn.Module):
    """A narrow transformer over [prefix | visible tokens | one mask token per decoded position].

    As in the official code, a decoded position that the encoder saw also gets a mask token. Only the
    outputs of the mask tokens are used; each objective has a linear head that runs on them.

    Attributes:
      grid, width, blocks, positions, dtype, prefix_positions, initial: as the encoder's.
      heads: the size of each objective's prediction, by name.
      prefix: the number of tokens that the encoder puts before those of the clip.
      keep_prefix: whether the encoder's prefix passes through the decoder, without positions (MAE). Otherwise it is
        replaced by as many learned tokens of the decoder (MAE-ST).
      project_bias: whether the projection to the decoder's width has a bias (MAE and MAE-ST).
      mask_tokens: how many mask tokens there are; a clip that is masked several times can have one for each (V-JEPA).
    """

    grid: Grid
    width: int
    blocks: dict[str, Any]
    positions: Positions
    heads: Mapping[str, int]
    dtype: Any = jnp.float32
    prefix: int = 0
    prefix_positions: bool = False
    initial: str = "videomae"
    keep_prefix: bool = False
    project_bias: bool = False
    mask_tokens: int = 1

    @nn.compact
    @tower("decoder")
    def __call__(
        self, encoded: Float[Array, "b n d"], plan: MaskPlan, mask: int = 0
    ) -> dict[str, Float[Array, "b k p"]]:
        """Return the float32 predictions of each objective at `plan.decode`.

        Args:
          encoded: the encoded prefix and visible tokens.
          plan: the places of the visible and of the predicted tokens.
          mask: the number of the mask token.
        """
        with part("project"):
            given = self.projection()(encoded if self.keep_prefix else encoded[:, self.prefix :])
        x = self.tokens(given, plan, mask)
        stack = Stack(**self.blocks, first_layer=None, dtype=self.dtype, name="blocks")
        x = stack(x, valid=self._valid(plan), rotation=self._rotation(plan))
        return self.predictions(x, plan)

    def projection(self) -> Dense:
        """The layer from the encoder's width to the decoder's."""
        options = {"use_bias": self.project_bias, "initial": self.initial, "dtype": self.dtype}
        return Dense(self.width, ("embed", None), **options, name="project")

    def tokens(
        self,
        given: Float[Array, "b n d"],
        plan: MaskPlan,
        number: int = 0,
        queries: Float[Array, "b k d"] | None = None,
    ) -> Float[Array, "b n d"]:
        """The decoder's tokens: prefix, projected visible tokens and mask tokens, with their positions.

        Args:
          given: the encoded tokens, projected.
          plan: the places of the visible and of the mask tokens.
          number: of the mask token.
          queries: in place of the mask tokens.
        """
        if queries is None:
            shape = (self.width,) if self.mask_tokens == 1 else (self.mask_tokens, self.width)
            init = declare(SCHEMES[self.initial].mask, *(None,) * len(shape), decay=False)
            mask = jnp.asarray(self.param("mask_token", init, shape)).reshape(-1, self.width)[number]
            queries = mask.astype(self.dtype)
        positions = self.positions(self.grid, self.width)
        before, visible = [], given[:, -plan.visible.shape[1] :]
        if self.prefix and self.keep_prefix:
            before = [given[:, : self.prefix]]
        elif self.prefix:
            token = prefix_tokens(self, self.prefix, self.width, None).astype(self.dtype)
            before = [jnp.broadcast_to(token, (len(visible), *token.shape))]
        x = jnp.concatenate(
            [
                *before,
                visible + positions(plan.visible).astype(self.dtype),
                queries + positions(plan.decode).astype(self.dtype),
            ],
            axis=1,
        )
        return nn.with_logical_constraint(x, ("batch", "tokens", None))

    def predictions(self, x: Float[Array, "b n d"], plan: MaskPlan) -> dict[str, Float[Array, "b k p"]]:
        """Each objective's prediction, float32, from the last tokens, those of `plan.decode`."""
        x = LayerNorm(self.dtype, name="norm")(x[:, -plan.decode.shape[1] :])
        with part("head"):
            options = {"initial": self.initial, "dtype": self.dtype}
            return {
                name: Dense(size, ("embed", "cube"), **options, name=f"head_{name}")(x).astype(jnp.float32)
                for name, size in self.heads.items()
            }

    def _valid(self, plan: MaskPlan) -> Array | None:
        if plan.valid is None and plan.decode_valid is None:
            return None
        seen, predicted = (
            jnp.ones(index.shape, bool) if valid is None else valid
            for index, valid in ((plan.visible, plan.valid), (plan.decode, plan.decode_valid))
        )
        seen = jnp.pad(seen, ((0, 0), (self.prefix, 0)), constant_values=True)
        return jnp.concatenate([seen, predicted], axis=1)

    def _rotation(self, plan: MaskPlan) -> Rotation | None:
        index = jnp.concatenate([plan.visible, plan.decode], axis=1)
        about = {"width": self.width, "heads": self.blocks["heads"], "prefix": self.prefix, "dtype": self.dtype}
        return rotation(self.positions, self.grid, index, **about)
