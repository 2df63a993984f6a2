"""Reconstruction of what is hidden of each modality, by a decoder of its own or by one that modalities share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.methods.masked import Masked, Pass
from vmae_jax.methods.parts.core import Part, Seen
from vmae_jax.registry import register
from vmae_jax.types import Batch, Loss, Params

__all__ = ["Reconstruct", "reconstruct"]

SHARED = "shared"
_OF_ALL = ("blocks", "norm")  # what modalities share of a decoder


@dataclasses.dataclass(frozen=True)
class Reconstruct(Part):
    """See `reconstruct`."""

    shared: bool
    zeros: bool

    def check(self, networks: Mapping[str, Masked]) -> None:
        """Raise ValueError if a modality has no objective, or decoders that are shared differ."""
        for name, one in networks.items():
            if not one.objectives or one.encoder_mask is None:
                raise ValueError(f"reconstruct: modality {name!r} needs a mask and objectives")
        decoders = [one.model.decoder for one in networks.values()]
        if self.shared and any(one["blocks"] != decoders[0]["blocks"] for one in decoders):
            raise ValueError("reconstruct: shared=True needs decoders of the same width, depth and heads")

    def init(self, key: Array, networks: Mapping[str, Masked], batches: Mapping[str, Batch]) -> Params:
        """See `Part.init`: {MODALITY: …}, and "shared" where decoders are."""
        made: dict[str, Any] = {}
        for number, (name, one) in enumerate(networks.items()):
            params = one.init(key if number == 0 else jax.random.fold_in(key, number), batches[name])[0]["decoder"]
            if self.zeros:
                heads = {part: jax.tree.map(jnp.zeros_like, w) for part, w in params.items() if part.startswith("head")}
                params = {**params, **heads}
            if self.shared:
                made.setdefault(SHARED, {part: params[part] for part in _OF_ALL})
                params = {part: value for part, value in params.items() if part not in _OF_ALL}
            made[name] = params
        return made

    def predictions(self, params: Params, networks: Mapping[str, Masked], seen: Mapping[str, Seen]) -> dict[str, Any]:
        """Return what the decoders predict of each modality, by objective."""
        return {
            name: one.decode({"decoder": {**params.get(SHARED, {}), **params[name]}}, own.batch, own.fused, own.masks)
            for (name, one), own in zip(networks.items(), seen.values(), strict=True)
        }

    def loss(self, params: Params, networks: Mapping[str, Masked], seen: Mapping[str, Seen]) -> Loss:
        """Return a term for each objective of each modality, MODALITY_OBJECTIVE."""
        terms = {}
        for name, found in self.predictions(params, networks, seen).items():
            own = seen[name]
            done = Pass(own.batch, own.masks, own.fused, found)
            terms |= {f"{name}_{objective}": term for objective, term in networks[name].terms(done).items()}
        return Loss(terms)


@register("joint_part")
def reconstruct(shared: bool = False, zeros: bool = False) -> Reconstruct:
    """Predict the objectives of every modality at its hidden tokens.

    Args:
      shared: whether modalities share the blocks and the norm of one decoder, which is run on each by itself; the
        projection, the mask token and the heads are each one's own (AV-MAE).
      zeros: whether heads begin with zeros (AV-MAE).
    """
    return Reconstruct(shared, zeros)
