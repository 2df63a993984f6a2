"""Features that do not give away a clip's colours (controllable augmentations, Qian et al. 2022)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.methods.masked import Masked
from vmae_jax.methods.parts.core import Part, Seen, pooled, there
from vmae_jax.methods.parts.projector import Projector
from vmae_jax.registry import register
from vmae_jax.types import Batch, Context, Loss, Params, Term, stream

__all__ = ["Forget", "forget", "reversed_gradient"]


@jax.custom_vjp
def reversed_gradient(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Return `x`; its gradient changes its sign."""
    return x


reversed_gradient.defvjp(lambda x: (x, None), lambda _, grad: (-grad,))


@dataclasses.dataclass(frozen=True)
class Forget(Part):
    """See `forget`."""

    modality: str
    widths: tuple[int, ...]
    weight: float
    compares: bool = True

    def check(self, networks: Mapping[str, Masked]) -> None:
        """Raise ValueError if there is no such modality."""
        there("forget", networks, self.modality)

    def init(self, key: Array, networks: Mapping[str, Masked], batches: Mapping[str, Batch]) -> Params:
        """See `Part.init`: the estimator of colours."""
        model = networks[self.modality].model
        given = jnp.zeros((2, model.encoder.width)), jnp.ones(2, bool)
        return {"estimator": self._head(2 * model.video_shape[-1]).init(stream(key, "estimator"), *given)["params"]}

    def rows(self, params: Params, seen: Mapping[str, Seen], target: Callable[[], Mapping[str, Seen]]) -> Any:
        """Return the pooled features of each clip, and the mean and deviation of each of its colours as it is seen."""
        del params, target
        one = seen[self.modality]
        pixels = jnp.asarray(one.batch["video"], jnp.float32)
        cues = jnp.concatenate([pixels.mean(axis=(1, 2, 3)), pixels.std(axis=(1, 2, 3))], axis=-1)
        return {"features": pooled(one), "cues": jax.lax.stop_gradient(cues), "valid": jnp.asarray(one.batch["valid"])}

    def compare(self, params: Params, rows: Any, average: Params, context: Context) -> Loss:
        """Return the squared error of the estimated colours, in units of their variance over the clips."""
        del average, context
        valid = rows["valid"].astype(jnp.float32)[:, None]
        mean = (rows["cues"] * valid).sum(axis=0) / jnp.maximum(valid.sum(), 1)
        away = rows["cues"] - mean
        variance = (jnp.square(away) * valid).sum(axis=0) / jnp.maximum(valid.sum(), 1)
        wanted = away * jax.lax.rsqrt(variance + 1e-3)
        head = self._head(wanted.shape[-1])
        found: Any = head.apply({"params": params["estimator"]}, reversed_gradient(rows["features"]), rows["valid"])
        error = jnp.square(found - wanted).mean(axis=1)
        return Loss({"forget": Term((error * valid[:, 0]).sum(), valid.sum(), jnp.float32(self.weight))})

    def _head(self, outputs: int) -> Projector:
        return Projector((*self.widths, outputs))


@register("joint_part", smoke={"widths": [16]})
def forget(modality: str, widths: Sequence[int] = (512,), weight: float = 0.1) -> Forget:
    """Train an estimator of each clip's colours from its features, and the encoder against it.

    The estimator minimises its error, and the encoder, through a reversed gradient, maximises it, so that features hold
    less of what a contrast could be solved by without understanding the video. The colours are the mean and the
    standard deviation of each channel, after augmentation.

    Args:
      modality: its name.
      widths: of the hidden layers of the estimator, each with batch norm.
      weight: of the term in the loss.

    Raises:
      ValueError: if a number is out of range.
    """
    if any(width < 1 for width in widths) or weight < 0:
        raise ValueError(f"widths={list(widths)}, weight={weight}: at least 1 each, at least 0")
    return Forget(modality, tuple(widths), float(weight))
