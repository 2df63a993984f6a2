"""Contrast (InfoNCE) between two modalities of a clip, or between two views, exact over the global batch."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Bool, Float

from vmae_jax.methods.masked import Masked
from vmae_jax.methods.parts.core import Part, Seen, others, pooled, there
from vmae_jax.methods.parts.projector import Projector
from vmae_jax.models.parameters import declare
from vmae_jax.registry import register
from vmae_jax.types import Batch, Context, Loss, Mean, Params, Term, stream
from vmae_jax.vectors import unit

__all__ = ["Nce", "nce", "symmetric"]

_NEVER = -1e30  # the logit of a clip that is no candidate
_HOTTEST = math.log(100.0)


@dataclasses.dataclass(frozen=True)
class Nce(Part):
    """See `nce`."""

    first: str
    second: str
    temperature: float
    learned: bool
    widths: tuple[int, ...]
    weight: float
    views: int = 1
    paired: bool = False
    merged: bool = False
    compares: bool = True

    def check(self, networks: Mapping[str, Masked]) -> None:
        """Raise ValueError if there is no such modality, or two differ in width and have no projection."""
        there("nce", networks, self.first, self.second)
        widths = {networks[name].model.encoder.width for name in (self.first, self.second)}
        if len(widths) > 1 and not self.widths:
            raise ValueError("nce: the modalities differ in width: set widths, of a projection of each")

    def init(self, key: Array, networks: Mapping[str, Masked], batches: Mapping[str, Batch]) -> Params:
        """See `Part.init`: a projection of each modality, if any, and the temperature, if it is learned."""
        return self.fresh(key, {name: networks[name].model.encoder.width for name in (self.first, self.second)})

    def fresh(self, key: Array, sizes: Mapping[str, int]) -> Params:
        """Return initial parameters for vectors of these sizes, by the names of what is compared."""
        params: dict[str, Any] = {}
        for name, size in sizes.items() if self.widths else ():
            given = jnp.zeros((2, size)), jnp.ones(2, bool)
            params[name] = Projector(self.widths).init(stream(key, name), *given)["params"]
        if self.learned:
            init = declare(initializers.constant(-math.log(self.temperature)), decay=False)
            params["log_scale"] = init(key, (), jnp.float32)
        return params

    def rows(self, params: Params, seen: Mapping[str, Seen], target: Callable[[], Mapping[str, Seen]]) -> Any:
        """Return the pooled features of each modality, and which clips have both."""
        del params, target
        valid = jnp.asarray(seen[self.first].batch["valid"]) & jnp.asarray(seen[self.second].batch["valid"])
        return {name: pooled(seen[name]) for name in (self.first, self.second)} | {"": valid}

    def compare(self, params: Params, rows: Any, average: Params, context: Context) -> Loss:
        """Return the cross-entropy of finding the partner of each clip, and how often it is the nearest."""
        del average, context
        valid = rows[""]
        found = {name: self._projected(params, name, rows[name], valid) for name in (self.first, self.second)}
        if self.merged:
            found = {name: x.reshape(-1, self.views, x.shape[1]).mean(axis=1) for name, x in found.items()}
            valid = valid.reshape(-1, self.views).all(axis=1)
        found = {name: unit(x) for name, x in found.items()}
        scale = jnp.exp(jnp.minimum(params["log_scale"], _HOTTEST)) if self.learned else 1 / self.temperature
        if self.paired:
            error, hits, valid = self._of_pairs(found[self.first], found[self.second], valid, scale)
        elif self.views == 1 or self.merged:
            error, hits = symmetric(found[self.first], found[self.second], valid, scale)
        else:
            error, hits = _of_views(found[self.first], valid, scale, self.views)
            valid = valid[:, None] & valid[others(self.views, valid.shape[0])]
        counted = valid.astype(jnp.float32)
        total = counted.sum()
        term = Term((error * counted).sum(), total, jnp.float32(self.weight))
        metrics = {"accuracy": Mean((hits * counted).sum(), total)}
        if self.learned:
            metrics["temperature"] = Mean(jnp.asarray(1 / scale), jnp.float32(1))
        return Loss({"nce": term}, metrics)

    def _of_pairs(self, first: Array, second: Array, valid: Array, scale: Any) -> tuple[Array, Array, Array]:
        """Return error, hits and what counts, [b p], of each row and its p partners among one view of each video."""
        rows = first.shape[0]
        partners = jnp.arange(rows)[:, None] if self.first != self.second else others(self.views, rows)
        both = valid[:, None] & valid[partners]
        found = [symmetric(first, second[at], ok, scale, self.views) for at, ok in zip(partners.T, both.T, strict=True)]
        error, hits = (jnp.stack(one, axis=1) for one in zip(*found, strict=True))
        return error, hits, both

    def _projected(self, params: Params, name: str, x: Array, valid: Array) -> Array:
        if not self.widths:
            return x
        found: Any = Projector(self.widths).apply({"params": params[name]}, x, valid)
        return found

    @property
    def common(self) -> tuple[str, str] | None:
        """See `Part`: both modalities; None where views of one are compared."""
        return (self.first, self.second) if self.first != self.second else None

    def project(self, params: Params, name: str, x: Array, valid: Array) -> Array:
        """See `Part.project`."""
        return unit(self._projected(params, name, x, valid))


def symmetric(
    first: Float[Array, "b d"], second: Float[Array, "b d"], valid: Bool[Array, "b"], scale: Any, views: int = 1
) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    """Return half the sum of both cross-entropies of each clip, and whether its partner is the nearest, both ways.

    Args:
      first, second: vectors of length 1; those of a row are partners.
      valid: rows that are candidates.
      scale: of the cosines.
      views: of a video, which are consecutive rows; candidates are those with the same place in their video.
    """
    logits = scale * jnp.matmul(first, second.T, precision="highest")
    places = jnp.arange(first.shape[0])
    candidates = valid[None] & (places[:, None] % views == places[None] % views)
    errors, hits = [], []
    for one in (logits, logits.T):
        one = jnp.where(candidates, one, _NEVER)
        errors.append(jax.nn.logsumexp(one, axis=1) - jnp.diagonal(logits))
        hits.append(one.argmax(axis=1) == places)
    return jnp.where(valid, sum(errors) / 2, 0.0), (hits[0].astype(jnp.float32) + hits[1]) / 2


def _of_views(
    x: Float[Array, "b d"], valid: Bool[Array, "b"], scale: Any, views: int
) -> tuple[Float[Array, "b v"], Float[Array, "b v"]]:
    """Return SimCLR's cross-entropy of finding each other view of each row's video, and whether it is the nearest.

    Candidates are that view and all clips of other videos.
    """
    group = jnp.arange(x.shape[0]) // views
    logits = scale * jnp.matmul(x, x.T, precision="highest")
    wrong = jnp.where(valid[None] & (group[:, None] != group[None]), logits, _NEVER)
    right = jnp.take_along_axis(logits, others(views, x.shape[0]), axis=1)
    error = jnp.logaddexp(right, jax.nn.logsumexp(wrong, axis=1, keepdims=True)) - right
    return error, (right > wrong.max(axis=1, keepdims=True)).astype(jnp.float32)


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"widths": [16, 8]} if given.get("widths") else {}


@register("joint_part", smoke=_smoke)
def nce(
    first: str,
    second: str,
    temperature: float = 0.1,
    learned: bool = False,
    widths: Sequence[int] = (),
    weight: float = 1.0,
    views: int | None = None,
    paired: bool = False,
    merged: bool = False,
) -> Nce:
    """Contrast two modalities of each clip with those of all other clips of the batch (MAViL, ViC-MAE).

    What is compared is the mean of the visible tokens before modalities exchange anything. Clips that lack a modality
    are neither partners nor candidates.

    Args:
      first, second: names of modalities. The same twice: the views of a video, which are consecutive rows, are
        partners, and all rows of other videos candidates (SimCLR).
      temperature: by which cosines are divided.
      learned: whether the temperature is learned, from this value on; it never falls below 0.01.
      widths: of the layers of a projection of each modality, with batch norm between them; none: there is none.
      weight: of the term in the loss.
      views: of a video, where a modality is compared with itself, or `paired` or `merged` is set; None: 2.
      paired: whether candidates are one view of each video, that of the partner (MAViL), so that two modalities of
        several views are contrasted view by view, and another view of the same video is never a wrong answer.
      merged: whether the projections of the views of a video are averaged, so that two modalities are contrasted video
        by video (CrossVideoMAE). Videos of which a view lacks a modality do not count.

    Raises:
      ValueError: if a number is out of range, or `merged` is combined with `paired` or has one modality alone.
    """
    if temperature <= 0 or weight < 0 or any(width < 1 for width in widths):
        raise ValueError(
            f"temperature={temperature}, weight={weight}, widths={list(widths)}: above 0; at least 0; at least 1 each"
        )
    if merged and (paired or first == second):
        raise ValueError("merged=True is for two modalities, without paired=True")
    compares_views = paired or merged or first == second
    if views is not None and (views < 2 or not compares_views):
        raise ValueError(
            f"views={views}: at least 2, of one modality that is first and second, or with paired=True or merged=True"
        )
    count = (2 if views is None else views) if compares_views else 1
    return Nce(first, second, float(temperature), learned, tuple(widths), float(weight), count, paired, merged)
