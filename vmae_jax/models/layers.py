"""The transformer's parts: attention, MLP, pre-norm block.

Parameters are float32 and declare what the trainer needs (`models/parameters.py`): logical axis names ("embed",
"heads", "mlp", …), weight decay, and their layer. Matrix products run in `dtype`; norms and softmax in float32.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array

from vmae_jax.models.attention import attend
from vmae_jax.models.functions import layer_norm
from vmae_jax.models.initial import SCHEMES
from vmae_jax.models.parameters import declare
from vmae_jax.models.rotary import Rotation, rotated
from vmae_jax.models.styles import STYLES
from vmae_jax.scopes import part

__all__ = ["Attention", "Block", "Dense", "LayerNorm", "LayerScale", "Mlp", "drop_path"]

MAX_LOGIT_SCALE = 4.6052  # log 100; the clamp of cosine attention in the official code


class Dense(nn.Module):
    """x @ kernel + bias over the last axis.

    Attributes:
      features: outputs.
      names: logical names of the kernel's two axes; the bias takes the second.
      kernel_init: initializer of the kernel; by default that of `initial`.
      bias_init: initializer of the bias.
      initial: a key of `models.initial.SCHEMES`.
      layer, units: of the parameters (`parameters.Parameter`).
    """

    features: int
    names: tuple[str | None, str | None]
    use_bias: bool = True
    kernel_init: Any = None
    bias_init: Any = initializers.zeros
    initial: str = "videomae"
    dtype: Any = jnp.float32
    layer: int | None = None
    units: Mapping[str, int] | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        about = {"layer": self.layer, "units": self.units}
        kernel_init = self.kernel_init or SCHEMES[self.initial].matrix(width, self.features)
        init = declare(kernel_init, *self.names, decay=True, **about)
        kernel = self.param("kernel", init, (width, self.features))
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            init = declare(self.bias_init, self.names[1], decay=False, **about)
            y = y + self.param("bias", init, (self.features,)).astype(self.dtype)
        return y


class LayerNorm(nn.Module):
    """Layer normalisation in float32, result in `dtype`; `layer` is that of its parameters."""

    dtype: Any = jnp.float32
    epsilon: float = 1e-6
    layer: int | None = None

    @nn.compact
    @part("norm")
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", declare(initializers.ones, "embed", decay=False, layer=self.layer), (x.shape[-1],))
        bias = self.param("bias", declare(initializers.zeros, "embed", decay=False, layer=self.layer), (x.shape[-1],))
        return jnp.asarray(layer_norm(x, scale, bias, self.epsilon), self.dtype)


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch (CaiT); starts at `value`."""

    value: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = declare(initializers.constant(self.value), "embed", decay=False)
        gamma = self.param("gamma", init, (x.shape[-1],))
        return x * gamma.astype(x.dtype)


class Qkv(nn.Module):
    """Queries, keys and values of every head. Returns three arrays [b n d], the columns of one head after the other.

    A bias of the keys adds the same to every logit of a query, which the softmax cancels, unless keys are rotated.

    Attributes:
      heads: must divide the width.
      initial: a key of `models.initial.SCHEMES`.
      biases: the letters of those that have a bias.
      features: the width of each; by default that of the input.
      layer: of the parameters.
    """

    heads: int
    initial: str = "videomae"
    biases: str = "qv"
    dtype: Any = jnp.float32
    features: int | None = None
    layer: int | None = None

    @nn.compact
    @part("qkv")
    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        width = self.features or x.shape[-1]
        about = {"units": {"heads": self.heads}, "layer": self.layer}
        scheme = SCHEMES[self.initial]
        matrix = scheme.matrix(x.shape[-1], scheme.qkv * width)
        kernel = self.param(
            "kernel", declare(matrix, None, "embed", "heads", decay=True, **about), (3, x.shape[-1], width)
        )
        zeros = declare(initializers.zeros, "heads", decay=False, **about)
        biases = {name: self.param(f"{name}_bias", zeros, (width,)) for name in self.biases}
        x = x.astype(self.dtype)

        def project(name: str, matrix: Array) -> Array:
            y = x @ matrix.astype(self.dtype)
            return y + biases[name].astype(self.dtype) if name in biases else y

        q, k, v = (project(name, matrix) for name, matrix in zip("qkv", kernel, strict=True))
        return q, k, v


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes:
      heads: must divide the width.
      cosine: normalise q and k and learn a temperature for each head (Swin V2; an option of the
        official code that no published recipe uses).
      form: of `models.attention.FORMS`.
      initial, biases: of `Qkv`.
    """

    heads: int
    cosine: bool = False
    form: str = "auto"
    initial: str = "videomae"
    biases: str = "qv"
    dtype: Any = jnp.float32

    @nn.compact
    @part("scores")
    def __call__(
        self,
        x: Array,
        valid: Array | None = None,
        rotation: Rotation | None = None,
        order: Array | None = None,
    ) -> Array:
        q, k, v = Qkv(self.heads, self.initial, self.biases, self.dtype, name="qkv")(x)
        scale = None
        if rotation is not None:
            q, k = rotated(q, rotation), rotated(k, rotation)
        if self.cosine:
            init = declare(initializers.constant(math.log(10.0)), "heads", decay=False)
            factor = jnp.exp(jnp.minimum(self.param("logit_scale", init, (self.heads,)), MAX_LOGIT_SCALE))
            q, k, scale = _unit(q, self.heads, factor), _unit(k, self.heads), 1.0
        out = attend(q, k, v, heads=self.heads, valid=valid, order=order, scale=scale, form=self.form)
        with part("proj"):
            units = {"heads": self.heads}
            options = {"units": units, "initial": self.initial, "dtype": self.dtype}
            return Dense(x.shape[-1], ("heads", "embed"), **options, name="proj")(out)


def _unit(x: Array, heads: int, factor: Array | None = None) -> Array:
    """Each head's part of x [b n d] over its length, as `torch.nn.functional.normalize` has it, times its factor."""
    parts = x.astype(jnp.float32).reshape(*x.shape[:2], heads, -1)
    parts = parts / jnp.maximum(jnp.linalg.norm(parts, axis=-1, keepdims=True), 1e-12)
    parts = parts if factor is None else parts * factor[:, None]
    return parts.reshape(x.shape).astype(x.dtype)


class Mlp(nn.Module):
    """Linear, activation of the style (by default the exact GELU), linear; `layer` is that of the parameters."""

    hidden: int
    initial: str = "videomae"
    style: str = "vit"
    dtype: Any = jnp.float32
    layer: int | None = None

    @nn.compact
    @part("mlp")
    def __call__(self, x: Array) -> Array:
        width, options = x.shape[-1], {"initial": self.initial, "dtype": self.dtype, "layer": self.layer}
        x = Dense(self.hidden, ("embed", "mlp"), **options, name="fc1")(x)
        x = nn.with_logical_constraint(STYLES[self.style].activation(x), ("batch", "tokens", "mlp"))
        return Dense(width, ("mlp", "embed"), **options, name="fc2")(x)


def drop_path(x: Array, keys: Array | None, rate: Array) -> Array:
    """Drops the whole branch of an example with probability `rate`, and scales what is kept.

    Args:
      x: a residual branch, [b n d].
      keys: one key an example, so that the draw is the same in any micro-batch; None keeps all.
      rate: a scalar.
    """
    if keys is None:
        return x
    kept = jax.vmap(lambda key: jax.random.uniform(key) >= rate)(keys)
    return x * (kept / (1.0 - rate)).astype(x.dtype)[:, None, None]


class Block(nn.Module):
    """A pre-norm transformer block."""

    heads: int
    hidden: int
    cosine: bool = False
    layer_scale: float | None = None
    attention: str = "auto"
    initial: str = "videomae"
    biases: str = "qv"
    style: str = "vit"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        layer: tuple[Array, Array],
        keys: Array | None,
        valid: Array | None,
        rotation: Rotation | None,
        order: Array | None,
    ):
        index, rate = layer
        fold = functools.partial(_fold, keys, index)
        epsilon = STYLES[self.style].epsilon
        y = LayerNorm(self.dtype, epsilon, name="norm1")(x)
        options = {"cosine": self.cosine, "form": self.attention, "initial": self.initial, "biases": self.biases}
        y = Attention(self.heads, **options, dtype=self.dtype, name="attention")(y, valid, rotation, order)
        x = x + drop_path(self._scaled(y, "scale1"), fold(0), rate)
        y = LayerNorm(self.dtype, epsilon, name="norm2")(x)
        y = Mlp(self.hidden, self.initial, self.style, self.dtype, name="mlp")(y)
        x = x + drop_path(self._scaled(y, "scale2"), fold(1), rate)
        return nn.with_logical_constraint(x, ("batch", "tokens", None)), None

    def _scaled(self, y: Array, name: str) -> Array:
        return LayerScale(self.layer_scale, name=name)(y) if self.layer_scale else y


def _fold(keys: Array | None, index: Array, branch: int) -> Array | None:
    if keys is None:
        return None
    return jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, index), branch))(keys)
