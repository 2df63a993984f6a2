"""Prediction of what a frozen teacher, which sees all modalities whole, makes of the hidden tokens (MAViL, stage 2)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.methods.latent import normalized
from vmae_jax.methods.masked import Masked
from vmae_jax.methods.parts.core import Part, Seen
from vmae_jax.patches import gather
from vmae_jax.registry import register
from vmae_jax.targets.core import Penalty, l2
from vmae_jax.types import Batch, Loss, Params, Term, stream

__all__ = ["Regress", "regress"]

HEAD = "features"


@dataclasses.dataclass(frozen=True)
class Regress(Part):
    """See `regress`."""

    penalty: Penalty
    normalize: bool
    weight: float
    taught: bool = True

    def check(self, networks: Mapping[str, Masked]) -> None:
        """Raise ValueError if nothing is hidden of a modality."""
        for name, one in networks.items():
            if one.encoder_mask is None:
                raise ValueError(f"regress: modality {name!r} needs a mask")

    def init(self, key: Array, networks: Mapping[str, Masked], batches: Mapping[str, Batch]) -> Params:
        """See `Part.init`: a decoder of each modality."""
        made = {}
        for name, one in networks.items():
            encoder, masks = one.model.encoder, one.plan(batches[name])
            b, v = masks.visible.shape
            seen = jnp.zeros((b, encoder.prefix + v, encoder.width), encoder.dtype)
            made[name] = self._decoder(one).init(stream(key, name), seen, masks)["params"]
        return made

    def loss(self, params: Params, networks: Mapping[str, Masked], seen: Mapping[str, Seen]) -> Loss:
        """Return a term for each modality, MODALITY_features."""
        terms = {}
        for name, one in networks.items():
            own = seen[name]
            assert own.taught is not None
            found: Any = self._decoder(one).apply({"params": params[name]}, own.fused, own.masks)
            weight = own.masks.weight * jnp.asarray(own.batch["valid"])[:, None]
            with jax.named_scope("loss"):
                target = self.wanted(gather(own.taught, own.masks.decode))
                error = self.penalty(found[HEAD].astype(jnp.float32), target).mean(axis=-1)
                total = jnp.where(weight > 0, error * weight, 0.0).sum()
            terms[f"{name}_{HEAD}"] = Term(total, weight.sum(), jnp.float32(self.weight))
        return Loss(terms)

    def wanted(self, tokens: Float[Array, "b k d"]) -> Float[Array, "b k d"]:
        """Return the targets, float32, of the teacher's tokens."""
        tokens = tokens.astype(jnp.float32)
        return normalized(tokens, tokens.shape[-1]) if self.normalize else tokens

    def _decoder(self, one: Masked) -> Any:
        return one.model.make_decoder({HEAD: one.model.encoder.width})


@register("joint_part", penalty="penalty")
def regress(penalty: Penalty | None = None, normalize: bool = True, weight: float = 1.0) -> Regress:
    """Predict, at the hidden tokens of every modality, the features of a frozen teacher (MAViL, stage 2).

    The teacher has the method's own encoders and fusion. It sees all tokens of the same augmented clips; its features
    are those after the modalities have exchanged what they see. Its weights are `frozen/teacher/MODALITY` and
    `frozen/teacher/fusion`, which `init_from` sets.

    Args:
      penalty: of the errors; by default the squared error.
      normalize: whether the features of each token are normalised over their channels.
      weight: of each modality's term.

    Raises:
      ValueError: if the weight is negative.
    """
    if weight < 0:
        raise ValueError(f"weight={weight}: at least 0")
    return Regress(penalty or l2(), normalize, float(weight))
