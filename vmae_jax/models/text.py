"""CLIP's text tower: the embedding of a caption, to be compared with those of pictures."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Bool, Float, Int

from vmae_jax.models.attention import FORMS
from vmae_jax.models.layers import Dense, LayerNorm
from vmae_jax.models.parameters import declare
from vmae_jax.models.stack import Stack
from vmae_jax.models.styles import STYLES
from vmae_jax.models.variants import DTYPES
from vmae_jax.registry import register
from vmae_jax.scopes import part, tower
from vmae_jax.types import Params

__all__ = ["TextModel", "TextTower", "transformer"]


class TextTower(nn.Module):
    """A transformer in which a token sees those before it; the last token of a text stands for all of it.

    Attributes:
      vocabulary: how many numbers a token may be.
      length: tokens of a text at most.
      width: of the tokens.
      size: of the embedding.
      blocks: arguments of `Stack`.
      dtype: of the matrix products.
    """

    vocabulary: int
    length: int
    width: int
    size: int
    blocks: dict[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    @tower("text")
    def __call__(self, numbers: Int[Array, "b n"], there: Bool[Array, "b n"]) -> Float[Array, "b e"]:
        """Return the embedding of each text, float32.

        Args:
          numbers: of the tokens, padded at the end.
          there: False where they are padding. Of a row without any, the result means nothing.
        """
        with part("embed"):
            init = declare(initializers.normal(0.02), None, "embed", decay=True)
            table = jnp.asarray(self.param("tokens", init, (self.vocabulary, self.width)))
            init = declare(initializers.normal(0.01), None, "embed", decay=False)
            positions = jnp.asarray(self.param("positions", init, (self.length, self.width)))
            x = (jnp.take(table, numbers, axis=0) + positions[: numbers.shape[1]]).astype(self.dtype)
        # Padding comes last, and so is seen by no token that counts.
        order = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        x = Stack(**self.blocks, dtype=self.dtype, first_layer=None, name="blocks")(x, order=order)
        x = LayerNorm(self.dtype, STYLES[self.blocks["style"]].epsilon, name="norm")(x)
        last = jnp.maximum(there.sum(axis=1) - 1, 0)
        x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        project = Dense(self.size, ("embed", None), use_bias=False, dtype=self.dtype, name="projection")
        return project(x).astype(jnp.float32)


class TextModel(NamedTuple):
    """What `transformer` returns."""

    network: TextTower

    def init(self, key: Array) -> Params:
        """Return initial parameters, with their partitioning boxes, which an import replaces."""
        return self.network.init(key, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))["params"]

    def embed(self, params: Params, numbers: Array, there: Array) -> Float[Array, "b e"]:
        """Return the embedding of each text, without a gradient (see `TextTower`).

        Raises:
          ValueError: if texts are longer than the tower's.
        """
        if numbers.shape[1] > self.network.length:
            raise ValueError(
                f"texts of {numbers.shape[1]} numbers, and the text tower has positions for {self.network.length}: "
                "set length= of the stream"
            )
        found: Any = self.network.apply({"params": params}, numbers, there)
        return jax.lax.stop_gradient(found)


_SMOKE = {"vocabulary": 512, "width": 32, "size": 16, "depth": 2, "heads": 2, "mlp_ratio": 4.0, "dtype": "float32"}


@register("text_model", smoke=_SMOKE)
def transformer(
    vocabulary: int = 49408,
    length: int = 77,
    width: int = 512,
    size: int = 512,
    depth: int = 12,
    heads: int = 8,
    mlp_ratio: float = 4.0,
    dtype: str = "auto",
    attention: str = "auto",
) -> TextModel:
    """Return a text tower with the dimensions of CLIP's ViT-B, any of which can be changed.

    Args:
      vocabulary: how many numbers the tokenizer gives.
      length: tokens of a text at most.
      width, depth, heads: of the transformer.
      size: of the embedding.
      mlp_ratio: the width of the MLPs relative to that of the tokens.
      dtype: as in `models.variants.vit`.
      attention: of `models.attention.FORMS`, but for "splash", which has no order of tokens.

    Raises:
      ValueError: if a choice is unknown, or dimensions do not divide.
    """
    for what, value, known in (
        ("dtype", dtype, DTYPES),
        ("attention", attention, tuple(form for form in FORMS if form != "splash")),
    ):
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}: there are {', '.join(known)}")
    if min(vocabulary, length, width, size, depth, heads) < 1 or width % heads or not 0 < mlp_ratio <= 1024:
        raise ValueError(
            f"vocabulary={vocabulary}, length={length}, width={width}, size={size}, depth={depth}, heads={heads}, "
            f"mlp_ratio={mlp_ratio}: positive numbers, and a width that the heads divide"
        )
    blocks = {"depth": depth, "heads": heads, "hidden": int(width * mlp_ratio), "style": "clip", "attention": attention}
    return TextModel(TextTower(vocabulary, length, width, size, blocks, DTYPES[dtype]()))
