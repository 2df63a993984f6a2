"""Blocks one after the other under scan, whose parameters are stored stacked, [depth, …]."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vmae_jax.models.layers import Block
from vmae_jax.models.parameters import FIRST_LAYER
from vmae_jax.models.rotary import Rotation

__all__ = ["REMAT", "Stack", "repeated"]

# What the backward pass may keep of a block: the less, the less memory and the more arithmetic.
REMAT = {
    "none": None,  # keep everything; no rematerialisation
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def repeated(stack: Any, block: Any, *, shared: int, first_layer: int | None) -> Any:
    """`depth` blocks one after the other as one module, whose parameters are stored stacked, [depth, …].

    Args:
      stack: the module that calls this, with `depth`, `remat` (of `REMAT`), `unroll`, `dtype` and all attributes of the
        blocks. The parameters are its own.
      block: (x, of each block, *the same for all blocks) -> (x, None).
      shared: how many arguments are the same for all blocks.
      first_layer: for layer decay, the number of the first block; None where the tower has none.
    """
    names = {field.name for field in dataclasses.fields(block)} - {"name", "parent"}
    if REMAT[stack.remat] is not None:
        # Inside a loop nothing can be merged with the forward pass; unrolled, it could.
        block = nn.remat(block, policy=REMAT[stack.remat], prevent_cse=stack.unroll > 1)
    scanned = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, *[nn.broadcast] * shared),  # pyright: ignore[reportArgumentType]
        length=stack.depth,
        unroll=min(stack.unroll, stack.depth),
        metadata_params={nn.PARTITION_NAME: "layers", FIRST_LAYER: first_layer},
    )
    # Cast as a whole, matrices reach the backward pass as they are; inside the loop each cast would be kept.
    cast = nn.map_variables(scanned, "params", functools.partial(_cast, stack.dtype), init=stack.is_initializing())
    blocks = cast(**{name: getattr(stack, name) for name in names}, name="blocks")
    nn.share_scope(stack, blocks)
    return blocks


class Stack(nn.Module):
    """`depth` blocks whose parameters are stored stacked, [depth, …], whatever the unrolling.

    Returns the tokens after the last block, or with `levels` those after each of these, [levels b n d].

    Attributes:
      depth, heads, hidden: of the blocks; `hidden` is the MLP's width.
      drop_path: rate of the last block; it grows linearly from `drop_from` at the first.
      remat: a policy of `REMAT`.
      unroll: blocks compiled in a row; `depth` unrolls the loop, with the same parameters.
      attention: of `models.attention.FORMS`.
      initial, biases: of `Qkv`.
      style: a key of `models.styles.STYLES`.
      first_layer: for layer decay, the number of the first block; None where the tower has none (a decoder).
      levels: blocks, from 0 and ascending, whose outputs are returned instead of the last one's.
    """

    depth: int
    heads: int
    hidden: int
    cosine: bool = False
    layer_scale: float | None = None
    drop_path: float = 0.0
    remat: str = "none"
    unroll: int = 1
    attention: str = "auto"
    initial: str = "videomae"
    biases: str = "qv"
    style: str = "vit"
    dtype: Any = jnp.float32
    first_layer: int | None = 1
    levels: tuple[int, ...] = ()
    drop_from: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Array,
        keys: Array | None = None,
        valid: Array | None = None,
        rotation: Rotation | None = None,
        order: Array | None = None,
    ) -> Array:
        blocks = repeated(self, Tapped if self.levels else Block, shared=4, first_layer=self.first_layer)
        rates = np.linspace(self.drop_from, self.drop_path, self.depth, dtype=np.float32)
        layers = (jnp.arange(self.depth), jnp.asarray(rates))
        shared = (keys if self.drop_path else None, valid, rotation, order)
        if not self.levels:
            return blocks(x, layers, *shared)[0]
        count = len(self.levels)
        slots = np.full(self.depth, count)
        slots[list(self.levels)] = np.arange(count)
        kept = jnp.zeros((count + 1, *x.shape), x.dtype)
        (_, kept), _ = blocks((x, kept), (*layers, jnp.asarray(slots)), *shared)
        return kept[:count]


class Tapped(Block):
    """A block that also keeps its output, in the slot that its layer has; the last slot is for those not kept."""

    @nn.compact
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] - it carries the kept outputs, too
        self,
        x: tuple[Array, Array],
        layer: tuple[Array, Array, Array],
        keys: Array | None,
        valid: Array | None,
        rotation: Rotation | None,
        order: Array | None,
    ):
        tokens, kept = x
        index, rate, slot = layer
        tokens, _ = super().__call__(tokens, (index, rate), keys, valid, rotation, order)
        return (tokens, jax.lax.dynamic_update_index_in_dim(kept, tokens, slot, axis=0)), None


def _cast(dtype: Any, params: Any) -> Any:
    """The parameters with matrices in `dtype`; norms, biases and other vectors of a layer stay as they are."""

    def cast(path: Any, leaf: Array) -> Array:
        return leaf.astype(dtype) if path[-1] == jax.tree_util.DictKey("kernel") else leaf

    return jax.tree_util.tree_map_with_path(cast, params)
