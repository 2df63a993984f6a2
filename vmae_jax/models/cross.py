"""The decoder of SiamMAE, CropMAE and RVM, whose tokens attend to other views as well as to each other."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vmae_jax.models.attention import attend
from vmae_jax.models.decoder import Decoder
from vmae_jax.models.dropout import dropped
from vmae_jax.models.initial import SCHEMES
from vmae_jax.models.layers import Dense, LayerNorm
from vmae_jax.models.stack import repeated
from vmae_jax.models.styles import STYLES
from vmae_jax.scopes import part, tower
from vmae_jax.types import MaskPlan

__all__ = ["NORMS", "CrossBlock", "CrossDecoder", "MultiHead"]

NORMS = ("post", "pre", "late")  # the forms of a block (`CrossBlock`)


class MultiHead(nn.Module):
    """Multi-head attention of some tokens to others, or to themselves.

    Attributes:
      heads: must divide the width.
      dropout: rate of the attention weights. The fused kernels of `models.attention` have no dropout that is a function
        of each example's seed, so with it, in training, the weights of all heads exist at once, as in form "plain".
      form: of `models.attention.FORMS`, where nothing is dropped.
      initial, biases: of `models.layers.Qkv`.
    """

    heads: int
    dropout: float = 0.0
    form: str = "auto"
    initial: str = "videomae"
    biases: str = "qv"
    dtype: Any = jnp.float32

    @nn.compact
    @part("scores")
    def __call__(
        self,
        x: Float[Array, "b n d"],
        memory: Float[Array, "b m d"],
        keys: Array | None = None,
        valid: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Attend.

        Args:
          x: tokens that attend.
          memory: tokens that are attended to.
          keys: one key an example for dropout; None drops nothing.
          valid: False where `memory` is padding.
        """
        width, size, units = x.shape[-1], x.shape[-1] // self.heads, {"heads": self.heads}
        scheme = SCHEMES[self.initial]
        init = scheme.matrix(width, scheme.qkv * width)
        make = functools.partial(Dense, width, ("embed", "heads"), kernel_init=init, units=units, dtype=self.dtype)
        with part("qkv"):
            query = make(use_bias="q" in self.biases, name="query")(x)
            key = make(use_bias="k" in self.biases, name="key")(memory)
            value = make(use_bias="v" in self.biases, name="value")(memory)
        if keys is None or not self.dropout:
            y = attend(query, key, value, heads=self.heads, valid=valid, form=self.form)
        else:
            q, k, v = (self._heads(one) for one in (query * size**-0.5, key, value))
            y = _attend_dropped(q, k, v, keys, self.dropout, valid).swapaxes(1, 2).reshape(x.shape)
        with part("proj"):
            options = {"units": units, "initial": self.initial, "dtype": self.dtype}
            return Dense(width, ("heads", "embed"), **options, name="proj")(y)

    def _heads(self, x: Array) -> Array:
        """[b n d] as [b h n k]."""
        split = x.reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)
        return nn.with_logical_constraint(split, ("batch", "heads", "tokens", None))


def _attend_dropped(q: Array, k: Array, v: Array, keys: Array, rate: float, valid: Array | None) -> Array:
    """`attention.plain` with dropout of its weights."""
    scores = jnp.einsum("bhnk,bhmk->bhnm", q, k, preferred_element_type=jnp.float32)
    if valid is not None:
        scores = jnp.where(valid[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
    weights = dropped(jax.nn.softmax(scores, axis=-1), keys, "attention_weights", rate)
    return jnp.einsum("bhnm,bhmk->bhnk", weights.astype(v.dtype), v)


class CrossBlock(nn.Module):
    """A transformer block of cross-attention, self-attention and MLP.

    Attributes:
      heads: of both attentions.
      hidden: the MLP's width.
      norm: "post", in the order cross-attention, MLP, self-attention, with a norm after each sum (CropMAE's code), or
        "pre", in the order cross-attention, self-attention, MLP, with a norm before each branch, or "late", in the
        order of "post" with the norms of "pre" (RVM). The memory has no norm in any of them.
      dropout: rate of the attention weights, of the MLP's hidden values, and of each branch.
      attention, initial, biases: of `MultiHead`.
      style: a key of `models.styles.STYLES`, for the activation of the MLP.
    """

    heads: int
    hidden: int
    norm: str = "post"
    dropout: float = 0.0
    attention: str = "auto"
    initial: str = "videomae"
    biases: str = "qv"
    style: str = "vit"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, index: Array, memory: Array, keys: Array | None, valid: Array | None):
        """Transform `x`, given the block's number, the memory, a key an example, and which of `x` are no padding."""
        if keys is not None:
            keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
        options = {"form": self.attention, "initial": self.initial, "biases": self.biases, "dtype": self.dtype}
        make = functools.partial(MultiHead, self.heads, self.dropout, **options)
        cross, own = make(name="cross_attention"), make(name="attention")
        streams = {name: _named(keys, number) for number, name in enumerate(("cross", "own", "mlp"))}
        branches = {
            "cross": lambda x: cross(x, memory, streams["cross"]),
            "own": lambda x: own(x, x, streams["own"], valid),
            "mlp": lambda x: self._mlp(x, streams["mlp"]),
        }
        for name in ("cross", "own", "mlp") if self.norm == "pre" else ("cross", "mlp", "own"):
            norm = LayerNorm(self.dtype, name=f"norm_{name}")
            y = branches[name](x if self.norm == "post" else norm(x))
            x = x + dropped(y, streams[name], "branch", self.dropout)
            x = norm(x) if self.norm == "post" else x
        return nn.with_logical_constraint(x, ("batch", "tokens", None)), None

    @part("mlp")
    def _mlp(self, x: Array, keys: Array | None) -> Array:
        """Linear, activation of the style, dropout, linear."""
        options = {"initial": self.initial, "dtype": self.dtype}
        y = STYLES[self.style].activation(Dense(self.hidden, ("embed", "mlp"), **options, name="fc1")(x))
        y = dropped(nn.with_logical_constraint(y, ("batch", "tokens", "mlp")), keys, "hidden", self.dropout)
        return Dense(x.shape[-1], ("mlp", "embed"), **options, name="fc2")(y)


def _named(keys: Array | None, number: int) -> Array | None:
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


class CrossDecoder(Decoder):
    """A decoder whose blocks attend to the encoded tokens of a second view; `blocks` are arguments of `CrossStack`.

    The second view's tokens, its prefix among them, are projected as the visible tokens are and have no positions of
    the decoder. They are the same for every block.

    Attributes:
      gaps: the number of distances between the views that have a learned vector each, added to
        all tokens but the prefix (RVM); 0 adds none.
    """

    gaps: int = 0

    @nn.compact
    @tower("decoder")
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] - it has a memory
        self,
        encoded: Float[Array, "b n d"],
        plan: MaskPlan,
        memory: Float[Array, "a m d"],
        keys: Array | None = None,
        gap: Int[Array, " b"] | None = None,
    ) -> dict[str, Float[Array, "b k p"]]:
        """Predictions at `plan.decode`, float32, by objective.

        Args:
          encoded: the visible tokens of the view that is predicted.
          plan: their places, and those that are predicted.
          memory: all tokens of the other view, or of each of fewer rows, which b/a consecutive rows share.
          keys: one key an example for dropout; None drops nothing.
          gap: how far apart the views are, with `gaps`; of those out of range, the bias alone is added.
        """
        project = self.projection()
        with part("project"):
            first = 0 if self.keep_prefix else self.prefix
            given, memory = project(encoded[:, first:]), project(memory[:, first:])
        if len(memory) != len(given):
            memory = jnp.repeat(memory, len(given) // len(memory), axis=0)
        x = self.tokens(given, plan)
        if self.gaps and gap is not None:
            hot, options = jax.nn.one_hot(gap, self.gaps), {"initial": self.initial, "dtype": self.dtype}
            added = Dense(self.width, (None, None), **options, name="gap")(hot)[:, None]
            x = x + jnp.where(jnp.arange(x.shape[1])[:, None] < self.prefix, 0, added)
        x = CrossStack(**self.blocks, dtype=self.dtype, name="blocks")(x, memory, keys, self._valid(plan))
        return self.predictions(x, plan)


class CrossStack(nn.Module):
    """`depth` cross blocks whose parameters are stored stacked, [depth, …].

    Attributes:
      depth, remat, unroll: as in `models.stack.Stack`.
      heads, hidden, norm, dropout, attention, initial, biases, style: of `CrossBlock`.
    """

    depth: int
    heads: int
    hidden: int
    norm: str = "post"
    dropout: float = 0.0
    remat: str = "none"
    unroll: int = 1
    attention: str = "auto"
    initial: str = "videomae"
    biases: str = "qv"
    style: str = "vit"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, memory: Array, keys: Array | None = None, valid: Array | None = None) -> Array:
        blocks = repeated(self, CrossBlock, shared=3, first_layer=None)
        return blocks(x, jnp.arange(self.depth), memory, keys if self.dropout else None, valid)[0]
