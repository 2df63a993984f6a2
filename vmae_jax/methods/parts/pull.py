"""BYOL (Grill et al. 2020): the features of a view are predicted from those of the other, without negatives."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.methods.masked import Masked
from vmae_jax.methods.parts.core import OfAverage, others
from vmae_jax.methods.parts.projector import Projector
from vmae_jax.registry import register
from vmae_jax.types import Batch, Context, Loss, Params, Term, stream
from vmae_jax.vectors import unit

__all__ = ["Pull", "pull"]


@dataclasses.dataclass(frozen=True)
class Pull(OfAverage):
    """See `pull`."""

    modality: str
    widths: tuple[int, ...]
    weight: float
    views: int = 2

    def init(self, key: Array, networks: Mapping[str, Masked], batches: Mapping[str, Batch]) -> Params:
        """See `Part.init`: the projection, and the predictor of projections."""
        width, valid = networks[self.modality].model.encoder.width, jnp.ones(2, bool)
        sizes = {"projector": width, "predictor": self.widths[-1]}
        return {
            name: Projector(self.widths).init(stream(key, name), jnp.zeros((2, size)), valid)["params"]
            for name, size in sizes.items()
        }

    def compare(self, params: Params, rows: Any, average: Params, context: Context) -> Loss:
        """Return two minus twice the cosine of each prediction and the projection of every other view."""
        del context
        valid, head = rows["valid"], Projector(self.widths)
        online: Any = head.apply({"params": params["projector"]}, rows["online"], valid)
        online = unit(head.apply({"params": params["predictor"]}, online, valid))  # pyright: ignore
        target: Any = head.apply({"params": average["projector"]}, rows["target"], valid)
        target = jax.lax.stop_gradient(unit(target))
        other = others(self.views, valid.shape[0])
        both = (valid[:, None] & valid[other]).astype(jnp.float32)
        error = 2 - 2 * jnp.einsum("bd,bvd->bv", online, target[other], precision="highest")
        return Loss({"pull": Term((error * both).sum(), both.sum(), jnp.float32(self.weight))})


@register("joint_part", smoke={"widths": [16, 8]})
def pull(modality: str, widths: Sequence[int] = (4096, 256), weight: float = 1.0, views: int = 2) -> Pull:
    """Predict the features that the average of the encoder has of the other views of a video.

    The average is that of the trainer, `train.ema_decay`. Views are consecutive rows, all predicted from all others.

    Args:
      modality: its name.
      widths: of the layers of projection and predictor, with batch norm between them.
      weight: of the term in the loss.
      views: of a video, at least 2.

    Raises:
      ValueError: if a number is out of range, or there is no layer.
    """
    if not widths or min(widths) < 1 or weight < 0:
        raise ValueError(f"widths={list(widths)}, weight={weight}: at least one width, each at least 1; at least 0")
    if views < 2:
        raise ValueError(f"views={views}: it must be at least 2")
    return Pull(modality, tuple(widths), float(weight), views)
