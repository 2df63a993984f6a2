"""Diagnostics of features: effective rank, spread, correlations and distribution over held-out clips."""

import dataclasses
from collections.abc import Iterable

from vmae_jax.eval.collapse import Limits
from vmae_jax.eval.collect import About, per_clip
from vmae_jax.eval.geometry import describe, lidar, trace_ratio
from vmae_jax.eval.scores import finite
from vmae_jax.registry import register
from vmae_jax.types import Batch, Method, Params

__all__ = ["Spectrum", "spectrum"]


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """See `spectrum`.

    Attributes:
      limits: by which `train.on_collapse` judges the results.
    """

    clips: int
    layer: int | None
    limits: Limits

    def __call__(
        self, method: Method, params: Params, batches: Iterable[Batch], about: About | None = None
    ) -> dict[str, float]:
        """Return the statistics of `geometry`, and on how many clips and dimensions, of which parameters."""
        about, layer = about or About(), self.layer
        compiled = about.programs(
            (method.features, layer, True), lambda p, b: method.features(p, b, layer=layer, pool=True)
        )
        found = per_clip(compiled, params, batches, self.clips)
        n, views, d = found.outputs.shape
        if n < 2:
            raise ValueError("statistics of features need at least two videos")
        finite(found.outputs.reshape(n, -1), found.index, "the features", "videos")
        numbers = describe(found.outputs[:, 0])
        if views > 1:
            numbers |= {"lidar": lidar(found.outputs), "trace_ratio": trace_ratio(found.outputs)}
        return numbers | {"clips": float(n), "dimensions": float(d), "averaged": float(about.averaged)}


@register("evaluator")
def spectrum(
    clips: int = 1024,
    layer: int | None = None,
    floor: float = 0.05,
    fall: float = 0.25,
    dead: float = 1e-3,
    shrink: float = 0.05,
    patience: int = 2,
) -> Spectrum:
    """Effective rank, spread, correlations and distribution of pooled features: whether they collapse.

    The features are those of the first videos of the section's data, one clip each, which should not be augmented. With
    several clips of each video there are LiDAR and the ratio of traces as well. No label is needed, and nothing is
    trained. Features are judged by the limits below (`eval.collapse`), and `train.on_collapse` decides what follows.
    With `eval.at_start`, the spread of the untrained features is a standard, too.

    Args:
      clips: maximum number of videos. Results of different numbers cannot be compared.
      layer: the block whose output is taken; None is the last.
      floor: alarm if the centred RankMe is below this share of the largest possible one, min(clips - 1, dimensions).
      fall: alarm if it is below this share of the largest one of the run.
      dead: alarm if a dimension's spread is below this share of the mean spread.
      shrink: alarm if the mean spread, or the normalized one, is below this share of the largest one of the run.
      patience: evaluations in a row with an alarm after which features count as collapsed.

    Raises:
      ValueError: if a number is out of range.
    """
    if clips < 2 or patience < 1:
        raise ValueError(f"clips must be at least 2 and patience at least 1, got {clips} and {patience}")
    shares = {"floor": floor, "fall": fall, "dead": dead, "shrink": shrink}
    wrong = next((name for name, share in shares.items() if not 0 <= share < 1), None)
    if wrong is not None:
        raise ValueError(f"{wrong} must be in [0, 1), got {shares[wrong]:g}")
    return Spectrum(clips, layer, Limits(**shares, patience=patience))
