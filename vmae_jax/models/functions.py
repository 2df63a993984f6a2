"""Layer normalisation and GELU with gradients of their own, which keep less for the backward pass.

Differentiated step by step, a norm keeps four arrays of the input's size and an exact GELU four of
the hidden size. Here each keeps one, and the backward pass recomputes the others from it, which is
cheaper than the memory traffic. No matrix product is repeated. Values and gradients are those of the
plain formulas, up to rounding.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

__all__ = ["gelu", "layer_norm", "quick_gelu", "tanh_gelu"]


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """x · Φ(x), exact, computed in float32; keeps x alone for its gradient.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", the form without tanh.
    """
    return _gelu_forward(x)[0]


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype), x


def _gelu_backward(x: Array, grad: Array) -> tuple[Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * (1.0 / math.sqrt(2.0 * math.pi))
    return ((grad.astype(jnp.float32) * (_normal_cdf(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def _normal_cdf(x: Array) -> Array:
    # By erfc, which stays accurate far below zero, where 1 + erf would cancel.
    return 0.5 * jax.lax.erfc(x * -math.sqrt(0.5))


def quick_gelu(x: Array) -> Array:
    """x · sigmoid(1.702 x), the activation of CLIP, computed in float32."""
    wide = x.astype(jnp.float32)
    return (wide * jax.nn.sigmoid(1.702 * wide)).astype(x.dtype)


def tanh_gelu(x: Array) -> Array:
    """GELU approximated with a tanh, computed in float32 (Flax's default)."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float = 1e-6) -> Array:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis, in float32.

    Args:
      x: any dtype, [… d]; the result is float32.
      scale, bias: [d].

    Source: Ba, Kiros and Hinton, "Layer Normalization".
    """
    return _norm_forward(x, scale, bias, epsilon)[0]


def _norm_forward(x: Array, scale: Array, bias: Array, epsilon: float):
    wide = x.astype(jnp.float32)
    mean = wide.mean(axis=-1, keepdims=True)
    # In two passes: E[x²] - E[x]² cancels where the mean is large.
    rate = jax.lax.rsqrt(jnp.square(wide - mean).mean(axis=-1, keepdims=True) + epsilon)
    return (wide - mean) * rate * scale + bias, (x, mean, rate, scale)


def _norm_backward(epsilon: float, kept: tuple, grad: Array) -> tuple[Array, Array, Array]:
    x, mean, rate, scale = kept
    unit = (x.astype(jnp.float32) - mean) * rate
    inner = grad * scale
    dx = rate * (inner - inner.mean(-1, keepdims=True) - unit * (inner * unit).mean(-1, keepdims=True))
    rows = tuple(range(x.ndim - 1))
    return dx.astype(x.dtype), (grad * unit).sum(rows).astype(scale.dtype), grad.sum(rows).astype(scale.dtype)


layer_norm.defvjp(_norm_forward, _norm_backward)
