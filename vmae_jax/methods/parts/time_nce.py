"""Contrast of moments (TeG, Qian et al. 2021): a moment of a short clip is found in the long clip that contains it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vmae_jax.methods.masked import Masked
from vmae_jax.methods.parts.core import Part, Seen, there
from vmae_jax.methods.parts.projector import Projector
from vmae_jax.registry import register
from vmae_jax.types import Batch, Context, Loss, Mean, Params, Term, stream
from vmae_jax.vectors import unit

__all__ = ["TimeNce", "time_nce"]

_NEVER = -1e30  # the logit of a moment that is no candidate
_ROUNDING = 1e-4  # of seconds


@dataclasses.dataclass(frozen=True)
class TimeNce(Part):
    """See `time_nce`."""

    modality: str
    widths: tuple[int, ...]
    temperature: float
    weight: float
    seconds: str
    compares: bool = True
    views: int = 2

    @property
    def inputs(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride] - it follows the stream
        return (self.seconds,)

    def check(self, networks: Mapping[str, Masked]) -> None:
        """Raise ValueError if there is no such modality, or a mask hides a part of its moments."""
        there("time_nce", networks, self.modality, whole="moments are means of all their tokens")
        if networks[self.modality].model.grid.t < 2:
            raise ValueError("time_nce: clips need at least two slots of time")

    def init(self, key: Array, networks: Mapping[str, Masked], batches: Mapping[str, Batch]) -> Params:
        """See `Part.init`: the projection of moments."""
        size, valid = networks[self.modality].model.encoder.width, jnp.ones(2, bool)
        params = Projector(self.widths).init(stream(key, "moments"), jnp.zeros((2, size)), valid)["params"]
        return {"projector": params}

    def rows(self, params: Params, seen: Mapping[str, Seen], target: Callable[[], Mapping[str, Seen]]) -> Any:
        """Return the mean of each slot's tokens, [b t d], and when it is shown, [b t]."""
        del params, target
        one = seen[self.modality]
        seconds = jnp.asarray(one.batch[self.seconds], jnp.float32)
        tokens = one.tokens.astype(jnp.float32)
        b, slots = tokens.shape[0], one.grid.t
        return {
            "moments": tokens.reshape(b, slots, -1, tokens.shape[-1]).mean(axis=2),
            "seconds": jax.lax.stop_gradient(seconds.reshape(b, slots, -1).mean(axis=2)),
            "valid": jnp.asarray(one.batch["valid"]),
        }

    def compare(self, params: Params, rows: Any, average: Params, context: Context) -> Loss:
        """Return the cross-entropy of finding each moment of the short clips, and how often it is the nearest."""
        del average, context
        moments, valid = rows["moments"], rows["valid"]
        b, t, _ = moments.shape
        head = Projector(self.widths)
        found: Any = head.apply({"params": params["projector"]}, moments.reshape(b * t, -1), jnp.repeat(valid, t))
        long, short = jnp.moveaxis(unit(found).reshape(b // 2, 2, t, -1), 1, 0)
        both = valid.reshape(-1, 2).all(axis=1)
        error, hits, counted = _found(long, short, rows["seconds"].reshape(-1, 2, t), both, self.temperature)
        term = Term((error * counted).sum(), counted.sum(), jnp.float32(self.weight))
        return Loss({"time_nce": term}, {"accuracy": Mean((hits * counted).sum(), counted.sum())})


def _found(
    long: Float[Array, "n t d"],
    short: Float[Array, "n t d"],
    seconds: Float[Array, "n 2 t"],
    valid: Bool[Array, " n"],
    temperature: float,
) -> tuple[Float[Array, "n t"], Float[Array, "n t"], Float[Array, "n t"]]:
    """Return the error of each moment of the short clips, whether the right one is the nearest, and what counts.

    The right one is the nearest in time. A moment that the long clip does not show, more than half of its step away
    from all, does not count. Other moments less than a step away are neither right nor wrong.
    """
    n, t, _ = long.shape
    away = jnp.abs(seconds[:, 1, :, None] - seconds[:, 0, None, :])
    step = (seconds[:, 0, -1] - seconds[:, 0, 0]) / (t - 1)
    place = away.argmin(axis=2)
    logits = jnp.einsum("nid,mjd->nimj", short, long, precision="highest") / temperature
    own = jnp.eye(n, dtype=bool)[:, None, :, None]
    near = (away < jnp.maximum(step, _ROUNDING)[:, None, None]) | (jnp.arange(t) == place[..., None])
    wrong = jnp.where(valid[None, None, :, None] & ~(own & near[:, :, None]), logits, _NEVER).reshape(n, t, -1)
    videos = jnp.arange(n)
    right = jnp.take_along_axis(logits[videos, :, videos], place[..., None], axis=2)[..., 0]
    counted = valid[:, None] & (away.min(axis=2) <= step[:, None] / 2 + _ROUNDING)
    error = jnp.logaddexp(right, jax.nn.logsumexp(wrong, axis=2)) - right
    return error, (right > wrong.max(axis=2)).astype(jnp.float32), counted.astype(jnp.float32)


@register("joint_part", smoke={"widths": [16, 8]})
def time_nce(
    modality: str,
    widths: Sequence[int] = (2048, 2048, 128),
    temperature: float = 0.1,
    weight: float = 1.0,
    seconds: str = "seconds",
) -> TimeNce:
    """Find each moment of a short clip in the long clip of the same video, among moments of all long clips.

    Views are consecutive rows, the long clip first (`data.clips.pair`). A moment is the mean of the tokens of a slot.

    Args:
      modality: its name; it has no mask.
      widths: of the layers of the projection of moments, with batch norm between them.
      temperature: by which cosines are divided.
      weight: of the term in the loss.
      seconds: the stream with the time of each frame, `data.streams.times.seconds`.

    Raises:
      ValueError: if a number is out of range, or there is no layer.
    """
    if not widths or min(widths) < 1:
        raise ValueError(f"widths={list(widths)}: at least one width, each at least 1")
    if temperature <= 0 or weight < 0:
        raise ValueError(f"temperature={temperature}, weight={weight}: above 0, at least 0")
    return TimeNce(modality, tuple(widths), float(temperature), float(weight), seconds)
