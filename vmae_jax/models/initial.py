"""The initial values in which the published codes differ: patch embedding, qkv, learned tokens."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.linen import initializers

__all__ = ["SCHEMES", "Scheme", "torch_default", "xavier"]


def xavier(fan_in: int, fan_out: int) -> Any:
    """Return a Xavier-uniform initializer with the fans of PyTorch's matrix, for a parameter of any shape."""
    return _uniform(math.sqrt(6.0 / (fan_in + fan_out)))


def torch_default(fan_in: int) -> Any:
    """Return a uniform initializer in ±1/sqrt(fan_in), PyTorch's default for kernel and bias of a convolution."""
    return _uniform(1.0 / math.sqrt(fan_in))


def _uniform(bound: float) -> Any:
    def initialize(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize


class Scheme(NamedTuple):
    """The initial values of one published code.

    Attributes:
      embed: (fan_in, width) -> initializer of the patch embedding's kernel; its bias has `torch_default` everywhere.
      qkv: how many of q, k and v count as one matrix, which decides its fan-out: 3 (fused) or 1.
      prefix: initializer of the tokens before those of the clip.
      mask: initializer of the mask token.
    """

    embed: Callable[[int, int], Any]
    qkv: int
    prefix: Any
    mask: Any


SCHEMES = {
    # The embedding has PyTorch's default; the normal distribution of the mask token is truncated at one deviation.
    "videomae": Scheme(
        embed=lambda fan_in, width: torch_default(fan_in),
        qkv=3,
        prefix=initializers.normal(0.02),
        mask=initializers.truncated_normal(0.02, lower=-1, upper=1),
    ),
    "mae": Scheme(embed=xavier, qkv=3, prefix=initializers.normal(0.02), mask=initializers.normal(0.02)),
    "mae_st": Scheme(embed=xavier, qkv=1, prefix=initializers.normal(0.02), mask=initializers.normal(0.02)),
}
