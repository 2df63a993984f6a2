"""Blocks one after the other under scan, whose parameters are stored stacked, [depth, …]."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vmae_jax.models.layers import Block
from vmae_jax.models.parameters import FIRST_LAYER

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
      stack: the module that calls this, with `depth`, `remat` (of `REMAT`), `unroll` and `dtype`.
      block: (x, of each block, *the same for all blocks) -> (x, None).
      shared: how many arguments are the same for all blocks.
      first_layer: for layer decay, the number of the first block; None where the tower has none.
    """
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
    return nn.map_variables(scanned, "params", functools.partial(_cast, stack.dtype), init=stack.is_initializing())


class Stack(nn.Module):
    """`depth` blocks whose parameters are stored stacked, [depth, …], whatever the unrolling.

    Attributes:
      depth, heads, hidden: of the blocks; `hidden` is the MLP's width.
      drop_path: rate of the last block; it grows linearly from 0 at the first.
      remat: a policy of `REMAT`.
      unroll: blocks compiled in a row; `depth` unrolls the loop, with the same parameters.
      attention: of `models.attention.FORMS`.
      fused, use_bias: of `Qkv`.
      first_layer: for layer decay, the number of the first block; None where the tower has none (a decoder).
      collect: also return the tokens after every block, [depth b n d].
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
    fused: int = 3
    use_bias: bool = True
    dtype: Any = jnp.float32
    first_layer: int | None = 1
    collect: bool = False

    @nn.compact
    def __call__(self, x: Array, keys: Array | None = None, valid: Array | None = None) -> Any:
        blocks = repeated(self, Block, shared=2, first_layer=self.first_layer)(
            heads=self.heads,
            hidden=self.hidden,
            cosine=self.cosine,
            layer_scale=self.layer_scale,
            attention=self.attention,
            fused=self.fused,
            use_bias=self.use_bias,
            dtype=self.dtype,
            collect=self.collect,
            name="blocks",
        )
        nn.share_scope(self, blocks)
        rates = np.linspace(0.0, self.drop_path, self.depth, dtype=np.float32)
        layers = (jnp.arange(self.depth), jnp.asarray(rates))
        x, collected = blocks(x, layers, keys if self.drop_path else None, valid)
        return (x, collected) if self.collect else x


def _cast(dtype: Any, params: Any) -> Any:
    """The parameters with matrices in `dtype`; norms, biases and other vectors of a layer stay as they are."""

    def cast(path: Any, leaf: Array) -> Array:
        return leaf.astype(dtype) if path[-1] == jax.tree_util.DictKey("kernel") else leaf

    return jax.tree_util.tree_map_with_path(cast, params)
