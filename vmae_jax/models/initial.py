"""How the networks of the published codes begin, where they differ: patch embedding, qkv, tokens."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.linen import initializers

__all__ = ["SCHEMES", "Scheme", "torch_default", "xavier"]


def xavier(fan_in: int, fan_out: int) -> Any:
    """Xavier-uniform by the fans of the matrix as PyTorch sees it, whatever the parameter's shape."""
    return _uniform(math.sqrt(6.0 / (fan_in + fan_out)))


def torch_default(fan_in: int) -> Any:
    """Uniform in ±1/sqrt(fan_in): what PyTorch gives a convolution, kernel and bias alike."""
    return _uniform(1.0 / math.sqrt(fan_in))


def _uniform(bound: float) -> Any:
    def initialize(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize


class Scheme(NamedTuple):
    """The initial values of one published code.

    Attributes:
      embed: (fan_in, width) -> initializer of the patch embedding's kernel; its bias has `torch_default` everywhere.
      qkv: how many of q, k and v are one matrix, whose outputs together are its fan-out: 3 (fused) or 1.
      prefix: of the tokens before those of the clip.
      mask: of the mask token.
    """

    embed: Callable[[int, int], Any]
    qkv: int
    prefix: Any
    mask: Any


SCHEMES = {
    # The embedding is left as PyTorch makes it; the mask token is cut off at one deviation.
    "videomae": Scheme(
        embed=lambda fan_in, width: torch_default(fan_in),
        qkv=3,
        prefix=initializers.normal(0.02),
        mask=initializers.truncated_normal(0.02, lower=-1, upper=1),
    ),
    "mae": Scheme(embed=xavier, qkv=3, prefix=initializers.normal(0.02), mask=initializers.normal(0.02)),
    "mae_st": Scheme(embed=xavier, qkv=1, prefix=initializers.normal(0.02), mask=initializers.normal(0.02)),
}
