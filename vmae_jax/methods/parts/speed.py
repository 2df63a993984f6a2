"""ASCNet (Huang et al. 2021): clips of a video agree in appearance, clips of the same speed in their speed."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vmae_jax.methods.masked import Masked
from vmae_jax.methods.parts.core import OfAverage, others
from vmae_jax.methods.parts.projector import Projector
from vmae_jax.registry import register
from vmae_jax.types import Batch, Context, Loss, Mean, Params, Term, stream
from vmae_jax.vectors import unit

__all__ = ["Speed", "alike", "speed"]

_NEVER = -2.0  # below every cosine


@dataclasses.dataclass(frozen=True)
class Speed(OfAverage):
    """See `speed`."""

    modality: str
    widths: tuple[int, ...]
    predictor: tuple[int, ...]
    weight: float
    warmup: float
    views: int

    def init(self, key: Array, networks: Mapping[str, Masked], batches: Mapping[str, Batch]) -> Params:
        """See `Part.init`: a projection and a predictor of each, "appearance" and "speed"."""
        width, valid = networks[self.modality].model.encoder.width, jnp.ones(2, bool)
        heads = {"projector": (self.widths, width), "predictor": (self.predictor, self.widths[-1])}
        return {
            task: {
                name: Projector(widths).init(stream(stream(key, task), name), jnp.zeros((2, size)), valid)["params"]
                for name, (widths, size) in heads.items()
            }
            for task in ("appearance", "speed")
        }

    def compare(self, params: Params, rows: Any, average: Params, context: Context) -> Loss:
        """Return both terms, two minus twice the cosines of predictions and of what they predict.

        The metrics are the spread of the targets, 1 where they are isotropic and 0 where all are one vector.
        """
        valid, views = rows["valid"], self.views
        predicted, targets = {}, {}
        for task in ("appearance", "speed"):
            own: Any = Projector(self.widths).apply({"params": params[task]["projector"]}, rows["online"], valid)
            own = Projector(self.predictor).apply({"params": params[task]["predictor"]}, own, valid)
            kept: Any = Projector(self.widths).apply({"params": average[task]["projector"]}, rows["target"], valid)
            predicted[task], targets[task] = unit(own), jax.lax.stop_gradient(unit(kept))  # pyright: ignore
        terms = {}
        similar = alike(targets["appearance"], valid, views)
        for task, partners in (("appearance", others(views, len(valid)).T), ("speed", similar[None])):
            total, count = jnp.float32(0), jnp.float32(0)
            for partner in partners:
                counted = (valid & (partner >= 0) & valid[partner]).astype(jnp.float32)
                error = 2 - 2 * jnp.einsum("bd,bd->b", predicted[task], targets[task][partner], precision="highest")
                total, count = total + (error * counted).sum(), count + counted.sum()
            weight = self.weight * self._begun(context) if task == "speed" else 1.0
            terms[task] = Term(total, count, jnp.asarray(weight, jnp.float32))
        metrics = {f"{task}_spread": _spread(x, valid) for task, x in targets.items()}
        return Loss(terms, metrics)

    def _begun(self, context: Context) -> Array | float:
        """Return the share of the speed's weight that applies at this step."""
        if not self.warmup or context.progress is None:
            return 1.0
        return jnp.minimum(context.progress / self.warmup, 1.0)


def alike(appearance: Float[Array, "b d"], valid: Bool[Array, "b"], views: int) -> Int[Array, "b"]:
    """Return for each clip the one of another video, at the same speed, that looks most like it; -1 if there is none.

    Args:
      appearance: vectors of length 1.
      valid: rows that are candidates.
      views: of a video, which are consecutive rows, each at a speed of its own.
    """
    row = jnp.arange(len(valid))
    same = (row[:, None] % views == row % views) & (row[:, None] // views != row // views) & valid
    cosines = jnp.where(same, jnp.matmul(appearance, appearance.T, precision="highest"), _NEVER)
    return jnp.where(same.any(axis=1), cosines.argmax(axis=1), -1)


def _spread(x: Float[Array, "b d"], valid: Bool[Array, "b"]) -> Mean:
    """Return the variance of unit vectors, summed over their dimensions."""
    weight = valid.astype(jnp.float32)[:, None]
    count = weight.sum()
    mean = (x * weight).sum(axis=0) / jnp.maximum(count, 1)
    return Mean((jnp.square(x - mean) * weight).sum(), count)


@register("joint_part", smoke={"widths": [16, 8], "predictor": [16, 8]})
def speed(
    modality: str,
    widths: Sequence[int] = (2048, 2048, 256),
    predictor: Sequence[int] = (2048, 256),
    weight: float = 1.0,
    warmup: float = 0.05,
    views: int = 2,
) -> Speed:
    """Predict the appearance of the other clips of a video, and the speed of a similar clip of another video.

    What is predicted is what the average of the encoder gives (`train.ema_decay`). Views are consecutive rows, each at
    a speed of its own, the same of all videos (`data.clips.pair(strides=…)`). The partner in speed is the clip of
    another video, at the same speed, that looks most alike, so that neither term contradicts the other.

    Args:
      modality: its name.
      widths: of the layers of both projections, with batch norm between them.
      predictor: of the layers of both predictors.
      weight: of the term of speed; that of appearance is 1.
      warmup: the share of the run in which this weight rises from 0: similarity means nothing at
        initialisation.
      views: of a video, at least 2.

    Raises:
      ValueError: if a number is out of range, or the predictor's last width is not the projection's.
    """
    if not widths or not predictor or min(*widths, *predictor) < 1 or predictor[-1] != widths[-1]:
        raise ValueError(f"widths={list(widths)}, predictor={list(predictor)}: at least 1 each, and the last the same")
    if not 0 <= warmup <= 1:
        raise ValueError(f"warmup={warmup}: a share of the run, from 0 to 1")
    if weight < 0 or views < 2:
        raise ValueError(f"weight={weight}, views={views}: at least 0, at least 2")
    return Speed(modality, tuple(widths), tuple(predictor), float(weight), float(warmup), views)
