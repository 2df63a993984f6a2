"""Tokens of a modality that are padding: sound or series shorter than the clip, or not there at all."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.inputs.readers import Read
from vmae_jax.models.variants import Model
from vmae_jax.patches import gather
from vmae_jax.types import MaskPlan

__all__ = ["tokens_read", "without_padding"]


def without_padding(plan: MaskPlan, read: Read, model: Model) -> tuple[MaskPlan, Array | None]:
    """Return a plan whose padding is neither attended to nor predicted, and which rows have the modality.

    A row without the modality sees all of its tokens, so that no softmax is over nothing; they do not count, and
    others do not see them.
    """
    if read.real is None:
        return plan, None
    tokens = tokens_read(read.real, model)[..., None]
    seen, wanted = (gather(tokens, index)[..., 0] for index in (plan.visible, plan.decode))
    attended = seen | ~(read.valid & seen.any(axis=1))[:, None]
    weight = plan.weight * wanted
    return dataclasses.replace(plan, valid=attended, decode_valid=wanted, weight=weight), read.valid & seen.any(axis=1)


def tokens_read(real: Array, model: Model) -> Array:
    """Return which tokens of clips [b n] hold anything, given which frames are no padding [b t]."""
    slots = real.reshape(real.shape[0], model.grid.t, -1).any(axis=2)
    return jnp.repeat(slots, model.grid.slot, axis=1)
