"""Projection heads with batch norm over all clips of the global batch."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Bool, Float

from vmae_jax.models.functions import gelu
from vmae_jax.models.layers import Dense
from vmae_jax.models.parameters import declare
from vmae_jax.scopes import tower

__all__ = ["Projector"]


class Projector(nn.Module):
    """Linear layers, with batch norm and an activation between them.

    Batch norm has no moving statistics, since the head is used in training alone. Rows that do not count are left out
    of its statistics.

    Attributes:
      widths: of the layers' outputs.
      activation: "relu" or "gelu".
      normed: whether batch norm follows the last layer too, without scale and shift (MoCo v3).
    """

    widths: Sequence[int]
    activation: str = "relu"
    normed: bool = False

    @nn.compact
    @tower("projector")
    def __call__(self, x: Float[Array, "b d"], valid: Bool[Array, "b"]) -> Float[Array, "b k"]:
        weight = valid.astype(jnp.float32)[:, None] / jnp.maximum(valid.sum(), 1)
        for number, width in enumerate(self.widths):
            last = number == len(self.widths) - 1
            x = Dense(width, ("embed", None), use_bias=last and not self.normed, name=f"layer_{number}")(x)
            if not last or self.normed:
                mean = (x * weight).sum(axis=0)
                variance = (jnp.square(x - mean) * weight).sum(axis=0)
                x = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
            if not last:
                parameter = functools.partial(self._vector, width=width, number=number)
                x = x * parameter("scale", 1.0) + parameter("bias", 0.0)
                x = {"relu": jax.nn.relu, "gelu": gelu}[self.activation](x)
        return x

    def _vector(self, name: str, value: float, *, width: int, number: int) -> Array:
        init = declare(initializers.constant(value), None, decay=False)
        return jnp.asarray(self.param(f"norm_{number}_{name}", init, (width,)))
