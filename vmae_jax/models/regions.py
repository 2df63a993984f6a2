"""Features of regions of a clip, and their prediction from the tokens of another clip (ConST-CL)."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import initializers
from jaxtyping import Array, Float

from vmae_jax.models.attention import attend
from vmae_jax.models.functions import gelu
from vmae_jax.models.layers import Dense
from vmae_jax.models.parameters import declare
from vmae_jax.scopes import part, tower
from vmae_jax.types import Grid

__all__ = ["ContextDecoder", "pooled_boxes", "spread_slots"]

_SAMPLES = 4  # along each side of a box
_PLACE = (4, 8)  # widths of the layers that embed a place


def pooled_boxes(tokens: Float[Array, "b h w d"], boxes: Float[Array, "b n 4"]) -> Float[Array, "b n d"]:
    """Return the mean of 4 x 4 samples of the tokens in each box, linear between the centres of tokens (RoIAlign).

    Args:
      tokens: of one slot of each clip.
      boxes: x0, y0, x1, y1 as shares of the picture's sides.
    """
    across = _sampled(boxes[..., 0], boxes[..., 2], tokens.shape[2])
    down = _sampled(boxes[..., 1], boxes[..., 3], tokens.shape[1])
    rows = jnp.einsum("bnw,bhwd->bnhd", across, tokens, precision="highest")
    return jnp.einsum("bnh,bnhd->bnd", down, rows, precision="highest")


def _sampled(low: Float[Array, "b n"], high: Float[Array, "b n"], cells: int) -> Float[Array, "b n c"]:
    """Return the weight of each cell in the mean of the samples between two places along a side."""
    shares = (np.arange(_SAMPLES, dtype=np.float32) + 0.5) / _SAMPLES
    places = (low[..., None] + shares * (high - low)[..., None]) * cells - 0.5
    away = jnp.abs(jnp.clip(places, 0, cells - 1)[..., None] - jnp.arange(cells))
    return jnp.maximum(1.0 - away, 0.0).mean(axis=-2)


def spread_slots(slots: int, count: int) -> list[int]:
    """Return `count` slots of a clip, evenly spaced around the middle one.

    Raises:
      ValueError: if the number is even, or larger than the number of slots.
    """
    if count % 2 == 0 or not 1 <= count <= slots:
        raise ValueError(f"context={count}: an odd number of the {slots} slots of a clip, at least 1")
    return [slots // 2 + (number - count // 2) * (slots // count) for number in range(count)]


class ContextDecoder(nn.Module):
    """Layers of cross-attention that predict regions of one clip, given those of another, from its tokens.

    A head's query is added to what it attends to; a norm and two linear layers of its own follow. There is no
    self-attention, and the heads meet in the next layer alone.

    Attributes:
      width: of a head.
      heads: of each layer.
      depth: the number of layers.
      features: of the output.
      dtype: of the matrix products.
    """

    width: int
    heads: int
    depth: int
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    @tower("context")
    def __call__(self, x: Float[Array, "b n d"], memory: Float[Array, "b t h w d"]) -> Float[Array, "b n k"]:
        b, *grid, _ = memory.shape
        places = self._places(Grid(*grid))
        memory = jnp.concatenate([memory, jnp.broadcast_to(places, (b, *places.shape)).astype(memory.dtype)], axis=-1)
        memory = memory.reshape(b, -1, memory.shape[-1])
        for number in range(self.depth):
            x = ContextLayer(self.width, self.heads, self.dtype, name=f"layer_{number}")(x, memory)
        return Dense(self.features, (None, None), dtype=self.dtype, name="output")(x)

    def _places(self, grid: Grid) -> Float[Array, "t h w k"]:
        """Return the embeddings of the tokens' places, counted from the middle: that in time beside that in space."""
        t, h, w = (np.arange(side, dtype=np.float32) - (side - 1) / 2 for side in (grid.t, grid.h, grid.w))
        time = self._embedded(t[:, None], "time")
        space = self._embedded(np.stack(np.meshgrid(h, w, indexing="ij"), axis=-1), "space")
        shape = (grid.t, grid.h, grid.w, _PLACE[-1])
        pair = jnp.broadcast_to(time[:, None, None], shape), jnp.broadcast_to(space, shape)
        return jnp.concatenate(pair, axis=-1)

    def _embedded(self, places: np.ndarray, name: str) -> Array:
        hidden = jax.nn.relu(Dense(_PLACE[0], (None, None), name=f"{name}_0")(jnp.asarray(places)))
        return Dense(_PLACE[1], (None, None), name=f"{name}_1")(hidden)


class ContextLayer(nn.Module):
    """A layer of `ContextDecoder`."""

    width: int
    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], memory: Float[Array, "b m c"]) -> Float[Array, "b n k"]:
        make = functools.partial(Dense, self.heads * self.width, (None, None), dtype=self.dtype)
        with part("qkv"):
            query, value = make(name="query")(x), make(name="value")(memory)
            key = make(use_bias=False, name="key")(memory)  # a bias of keys would cancel in the softmax
        with part("scores"):
            found = attend(query, key, value, heads=self.heads)
        with part("norm"):
            found = (found + query).astype(jnp.float32).reshape(*x.shape[:2], self.heads, self.width)
            found = found - found.mean(axis=-1, keepdims=True)
            found = found * jax.lax.rsqrt(jnp.square(found).mean(axis=-1, keepdims=True) + 1e-6)
            found = found * self._vector("norm_scale", 1.0) + self._vector("norm_bias", 0.0)
        with part("mlp"):
            hidden = self._own(found, "mlp_0")
            hidden = gelu(hidden.reshape(*x.shape[:2], -1)).reshape(hidden.shape)
            return self._own(hidden, "mlp_1").reshape(*x.shape[:2], -1)

    def _own(self, x: Float[Array, "b n h k"], name: str) -> Float[Array, "b n h k"]:
        """Apply a linear layer of each head."""
        init = declare(initializers.glorot_uniform(batch_axis=0), None, None, None, decay=True)
        kernel = self.param(f"{name}_kernel", init, (self.heads, self.width, self.width))
        y = jnp.einsum("bnhk,hkj->bnhj", x.astype(self.dtype), kernel.astype(self.dtype))
        return y + self._vector(f"{name}_bias", 0.0).astype(self.dtype)

    def _vector(self, name: str, value: float) -> Array:
        init = declare(initializers.constant(value), None, None, decay=False)
        return jnp.asarray(self.param(name, init, (self.heads, self.width)))
