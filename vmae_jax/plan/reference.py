"""The masked autoencoder in the order of the published code, for comparison with ours.

Parameters, masks, predictions and loss are the same. But all tokens are embedded, and most are then
dropped; and targets are computed for all cubes, of which a part is used.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.methods.masked import Masked
from vmae_jax.models.layers import LayerNorm
from vmae_jax.models.stack import Stack
from vmae_jax.patches import Patch, gather, grid_of, patchify
from vmae_jax.scopes import tower
from vmae_jax.targets.core import Objective
from vmae_jax.types import Batch, MaskPlan, Method, Params

__all__ = ["Reference", "reference"]


@dataclasses.dataclass(frozen=True)
class Reference(Masked):
    """`Masked`, as the official PyTorch code computes it (`modeling_pretrain.py`, `engine_for_pretraining.py`)."""

    def encode(self, params: Params, batch: Batch, masks: MaskPlan, *, train: bool) -> Array:
        """Return the encoded visible tokens, after embedding all, without drop path."""
        del train
        encoder, weights = self.model.encoder, params["encoder"]
        cubes = self.model.normalize(patchify(batch["video"], self.model.patch))
        with tower("encoder"):
            everywhere = jnp.broadcast_to(jnp.arange(cubes.shape[1]), cubes.shape[:2])
            positions = encoder.positions(encoder.grid, encoder.width).apply({}, everywhere)
            x = encoder.embedded(weights, cubes) + jnp.asarray(positions).astype(encoder.dtype)
            x = gather(x, masks.visible)
            stack = Stack(**encoder.blocks, dtype=encoder.dtype, name="blocks")
            x = stack.apply({"params": weights["blocks"]}, x, None, masks.valid)
            return jnp.asarray(LayerNorm(encoder.dtype, name="norm").apply({"params": weights["norm"]}, x))


def reference(masked: Masked) -> Method:
    """Return a method with the published order of operations.

    Args:
      masked: ours, whose encoder has sinusoid positions and a final norm.
    """
    objectives = {name: _whole(objective) for name, objective in masked.objectives.items()}
    reference = Reference(masked.model, masked.encoder_mask, masked.decoder_mask, objectives)
    return Method(init=reference.init, loss=reference.loss, features=reference.features)


def _whole(objective: Objective) -> Objective:
    """Return the objective with targets of all cubes, of which it takes those at `decode`."""

    def target(batch: Batch, decode: Array, patch: Patch) -> Array:
        count = grid_of(batch["video"].shape, patch).size
        everywhere = jnp.broadcast_to(jnp.arange(count), (decode.shape[0], count))
        return gather(objective.target(batch, everywhere, patch), decode)

    return objective._replace(target=target)
