"""The initial values in which the published codes differ: matrices, patch embedding, learned tokens."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.linen import initializers

__all__ = ["SCHEMES", "Scheme", "divided_by_depth", "torch_default", "xavier"]


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
      embed: (fan_in, width) -> initializer of the patch embedding's kernel.
      qkv: how many of q, k and v count as one matrix, which decides its fan-out: 3 (fused) or 1.
      prefix: initializer of the tokens before those of the clip.
      mask: initializer of the mask token.
      matrix: (fan_in, fan_out) -> initializer of all other kernels.
      bias: fan_in -> initializer of the patch embedding's bias; all other biases start at zero.
    """

    embed: Callable[[int, int], Any]
    qkv: int
    prefix: Any
    mask: Any
    matrix: Callable[[int, int], Any] = xavier
    bias: Callable[[int], Any] = torch_default


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
    # Scenic: Flax's default of a convolution, and mask tokens of zeros.
    "scenic": Scheme(
        embed=lambda fan_in, width: initializers.lecun_normal(),
        qkv=1,
        prefix=initializers.zeros,
        mask=initializers.zeros,
        bias=lambda fan_in: initializers.zeros,
    ),
    # PyTorch's trunc_normal_ truncates at ±2, a hundred deviations away.
    "vjepa": Scheme(
        embed=lambda fan_in, width: initializers.normal(0.02),
        qkv=3,
        prefix=initializers.normal(0.02),
        mask=initializers.zeros,
        matrix=lambda fan_in, fan_out: initializers.normal(0.02),
        bias=lambda fan_in: initializers.zeros,
    ),
}


def divided_by_depth(tower: Any) -> Any:
    """Return initial parameters with the last matrix of each branch of block k, from 1, divided by √(2k) (V-JEPA 2).

    Args:
      tower: the parameters of an encoder or decoder, boxed or not, with its stacked "blocks".
    """
    wanted = {("attention", "proj", "kernel"), ("mlp", "fc2", "kernel")}

    def divide(path: Any, leaf: Any) -> Any:
        names = tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
        if names[0] != "blocks" or names[1:] not in wanted:
            return leaf
        depth = jnp.arange(1, leaf.shape[0] + 1, dtype=leaf.dtype)
        return leaf / jnp.sqrt(2 * depth)[:, None, None]

    return jax.tree_util.tree_map_with_path(divide, tower)
