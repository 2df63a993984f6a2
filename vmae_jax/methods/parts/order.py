"""Which of two clips of a video comes first (controllable augmentations, Qian et al. 2022)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.methods.masked import Masked
from vmae_jax.methods.parts.core import Part, Seen, pooled, there
from vmae_jax.methods.parts.projector import Projector
from vmae_jax.registry import register
from vmae_jax.types import Batch, Context, Loss, Mean, Params, Term, stream

__all__ = ["Order", "order"]

_ROUNDING = 1e-4  # seconds


@dataclasses.dataclass(frozen=True)
class Order(Part):
    """See `order`."""

    modality: str
    widths: tuple[int, ...]
    weight: float
    place: str
    views: int = 3
    compares: bool = True

    @property
    def inputs(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride] - it follows the stream
        return (f"{self.place}_times",)

    @property
    def head(self) -> Projector:
        """The classifier."""
        return Projector((*self.widths, 1))

    def check(self, networks: Mapping[str, Masked]) -> None:
        """Raise ValueError if there is no such modality."""
        there("order", networks, self.modality)

    def init(self, key: Array, networks: Mapping[str, Masked], batches: Mapping[str, Batch]) -> Params:
        """See `Part.init`: the classifier of three clips' features."""
        given = jnp.zeros((2, 3 * networks[self.modality].model.encoder.width)), jnp.ones(2, bool)
        return {"head": self.head.init(stream(key, "head"), *given)["params"]}

    def rows(self, params: Params, seen: Mapping[str, Seen], target: Callable[[], Mapping[str, Seen]]) -> Any:
        """Return the pooled features of each clip, and its middle in seconds."""
        del params, target
        one = seen[self.modality]
        times = jnp.asarray(one.batch[self.inputs[0]], jnp.float32)
        middle = (times[..., 0].min(axis=1) + times[..., 1].max(axis=1)) / 2
        return {"features": pooled(one), "middle": middle, "valid": jnp.asarray(one.batch["valid"])}

    def compare(self, params: Params, rows: Any, average: Params, context: Context) -> Loss:
        """Return the cross-entropy of which of the second and the third clip is earlier, and how often it is right."""
        del average, context
        names = ("features", "middle", "valid")
        features, middle, valid = (rows[name].reshape(-1, 3, *rows[name].shape[1:]) for name in names)
        later = middle[:, 2] - middle[:, 1]
        counted = valid.all(axis=1) & (jnp.abs(later) > _ROUNDING)
        given = features.reshape(len(features), -1)
        logit: Any = self.head.apply({"params": params["head"]}, given, counted)[:, 0]  # pyright: ignore
        error, weight = jax.nn.softplus(-logit * jnp.sign(later)), counted.astype(jnp.float32)
        term = Term((error * weight).sum(), weight.sum(), jnp.float32(self.weight))
        return Loss({"order": term}, {"accuracy": Mean(((logit * later > 0) * weight).sum(), weight.sum())})


@register("joint_part", smoke={"widths": [16]})
def order(modality: str, widths: Sequence[int] = (512,), weight: float = 0.5, place: str = "place") -> Order:
    """Predict which of two clips of a video comes first, given the whole video as a third.

    Views are consecutive rows: the whole video and two parts of it (`data.clips.whole_and_parts`). Clips of the same
    time, such as those of a video that is as short as a clip, do not count.

    Args:
      modality: its name.
      widths: of the hidden layers of the classifier, each with batch norm.
      weight: of the term in the loss.
      place: the stream with the times of clips, `data.streams.place`.

    Raises:
      ValueError: if a number is out of range.
    """
    if any(width < 1 for width in widths) or weight < 0:
        raise ValueError(f"widths={list(widths)}, weight={weight}: at least 1 each, at least 0")
    return Order(modality, tuple(widths), float(weight), place)
