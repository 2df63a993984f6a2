"""The encoder: embeds the given cubes and runs the transformer over them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float, Int

from vmae_jax.models.initial import SCHEMES
from vmae_jax.models.layers import Dense, LayerNorm
from vmae_jax.models.parameters import declare
from vmae_jax.models.positions import Positions
from vmae_jax.models.rotary import rotation
from vmae_jax.models.stack import Stack
from vmae_jax.models.styles import STYLES, Style
from vmae_jax.scopes import part, tower
from vmae_jax.types import Grid, MaskPlan

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """A vision transformer over any subset of a clip's cubes.

    Attributes:
      grid: the token grid of a whole clip, for the positions.
      width: of the tokens.
      blocks: arguments of `Stack`.
      positions: the position embeddings.
      final_norm: whether a norm follows the last block (in pre-training; a classifier normalises the mean instead).
      dtype: the dtype of the matrix products.
      prefix: the number of learned tokens before those of the clip, also in the output (MAE, MAE-ST: a class token).
      prefix_positions: whether the prefix has learned positions (MAE-ST).
      initial: the initial values, a key of `models.initial.SCHEMES`.
      levels: blocks, from 0 and ascending, whose outputs are returned side by side, each after a norm of its own
        (V-JEPA 2.1), instead of the last one's.
      modality: whether a learned vector is added to all tokens (V-JEPA 2.1), of which images have another.
      embed: whether the cubes are embedded by a linear layer; otherwise they are vectors of the encoder's width.
      collect: blocks, from 0 and ascending to the last one, whose outputs are returned as well, without a norm: the
        result is then a pair, with these [blocks b n d] (DiffMAE).
      causal: whether attention is block-causal: a token attends to those of its own and of earlier slots, the prefix to
        all, and no token of the clip to the prefix, in which later slots are (LeVJEPA).
    """

    grid: Grid
    width: int
    blocks: dict[str, Any]
    positions: Positions
    final_norm: bool = True
    dtype: Any = jnp.float32
    prefix: int = 0
    prefix_positions: bool = False
    initial: str = "videomae"
    levels: tuple[int, ...] = ()
    modality: bool = False
    embed: bool = True
    collect: tuple[int, ...] = ()
    causal: bool = False

    @property
    def outputs(self) -> int:
        """The number of channels of the output."""
        return self.width * max(len(self.levels), 1)

    @property
    def style(self) -> Style:
        """The form of the blocks, of the norms and of the embedding."""
        return STYLES[self.blocks.get("style", "vit")]

    @nn.compact
    @tower("encoder")
    def __call__(self, cubes: Float[Array, "b v p"], plan: MaskPlan, keys: Array | None = None) -> Any:
        """Encode the visible cubes as n = prefix + v tokens, of as many times the width as there are levels.

        Args:
          cubes: the cubes of `plan.visible`, normalised.
          plan: their positions; `plan.valid` is False for padding.
          keys: one key per example, for drop path; None disables it.
        """
        embed = self._embedding(cubes.shape[-1]) if self.embed else lambda cubes: cubes.astype(self.dtype)
        with part("embed"):
            x = embed(cubes) + self.positions(self.grid, self.width)(plan.visible).astype(self.dtype)
        if self.modality:
            vector = self.param("modality", declare(initializers.normal(1e-6), "embed", decay=False), (self.width,))
            x = x + jnp.asarray(vector).astype(self.dtype)
        valid = plan.valid
        if self.prefix:
            token = prefix_tokens(self, self.prefix, self.width, "embed", layer=0).astype(self.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], *token.shape)), x], axis=1)
            valid = None if valid is None else jnp.pad(valid, ((0, 0), (self.prefix, 0)), constant_values=True)
        if self.style.first_norm:
            x = LayerNorm(self.dtype, self.style.epsilon, layer=0, name="first_norm")(x)
        x = nn.with_logical_constraint(x, ("batch", "tokens", None))
        about = {"width": self.width, "heads": self.blocks["heads"], "prefix": self.prefix, "dtype": self.dtype}
        turn = rotation(self.positions, self.grid, plan.visible, **about)
        x = Stack(**self.blocks, levels=self.levels or self.collect, dtype=self.dtype, name="blocks")(
            x, keys, valid, turn, self._order(plan.visible) if self.causal else None
        )
        if self.levels:
            normed = [LayerNorm(self.dtype, self.style.epsilon, name=f"norm_{i}")(level) for i, level in enumerate(x)]
            return jnp.concatenate(normed, axis=-1)
        x, collected = (x[-1], x) if self.collect else (x, None)
        x = LayerNorm(self.dtype, self.style.epsilon, name="norm")(x) if self.final_norm else x
        return (x, collected) if self.collect else x

    def _order(self, index: Int[Array, "b v"]) -> Int[Array, "b n"]:
        """The slot of each token, and of the prefix one after the last."""
        return jnp.pad(index // self.grid.slot, ((0, 0), (self.prefix, 0)), constant_values=self.grid.t)

    def _embedding(self, size: int) -> Dense:
        scheme = SCHEMES[self.initial]
        options = {"kernel_init": scheme.embed(size, self.width), "bias_init": scheme.bias(size)}
        options["use_bias"] = self.style.embed_bias
        return Dense(self.width, ("cube", "embed"), **options, dtype=self.dtype, layer=0, name="embed")

    @tower("encoder")
    def embedded(self, params: Any, cubes: Float[Array, "b n p"]) -> Float[Array, "b n d"]:
        """Return the embedded cubes, without positions, given `params`."""
        options = {"use_bias": self.style.embed_bias, "dtype": self.dtype}
        embed = Dense(self.width, ("cube", "embed"), **options, parent=None)
        with part("embed"):
            return jnp.asarray(embed.apply({"params": params["embed"]}, cubes))

    def shallow(self, params: Any, depth: int) -> tuple["Encoder", Any]:
        """Return an encoder of the first `depth` blocks without the final norm, and its part of `params`."""
        if not 0 <= depth <= self.blocks["depth"]:
            raise ValueError(f"layer {depth}: the encoder has {self.blocks['depth']} blocks")
        rate = self.blocks.get("drop_path", 0.0) * max(depth - 1, 0) / max(self.blocks["depth"] - 1, 1)
        encoder = self.clone(blocks={**self.blocks, "depth": depth, "drop_path": rate}, final_norm=False, levels=())
        blocks = jax.tree.map(lambda leaf: leaf[:depth], params["blocks"])
        return encoder, {**{k: v for k, v in params.items() if not k.startswith("norm")}, "blocks": blocks}


def prefix_tokens(module: Any, count: int, width: int, name: str | None, layer: int | None = None) -> Array:
    """Return the learned tokens before those of the clip, [count width], plus their positions if they have any.

    Args:
      module: an encoder or decoder with `initial` and `prefix_positions`.
      count, width: the number of tokens and their width.
      name: the logical name of their width.
      layer: their layer, for layer decay.
    """
    init = declare(SCHEMES[module.initial].prefix, None, name, decay=False, layer=layer)
    token = jnp.asarray(module.param("prefix_token", init, (count, width)))
    if not module.prefix_positions:
        return token
    return token + jnp.asarray(module.param("prefix_position", init, (count, width)))
