"""Retrieval between modalities: whether a video is found by its own sound, and the sound by its video."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vmae_jax.eval.collect import About, Results, per_video
from vmae_jax.eval.scores import finite
from vmae_jax.registry import register
from vmae_jax.types import Batch, Carried, Method, Params

__all__ = ["CrossRetrieval", "cross_retrieval", "places"]

BLOCK = 1024  # queries compared at once


@dataclasses.dataclass(frozen=True)
class CrossRetrieval:
    """See `cross_retrieval`."""

    ranks: tuple[int, ...]
    space: str | None

    def check(self, method: Method, params: Params, batch: Batch, carried: Carried) -> None:
        """Raise ValueError if the method compares no modalities, or not in this space."""
        del params, batch, carried
        self._chosen(method)

    def __call__(self, method: Method, params: Params, batches: Iterable[Batch], about: About | None = None) -> Results:
        """Return FIRST_to_SECOND_r1, …, FIRST_to_SECOND_median, the same of the other direction, and the numbers."""
        space = self._chosen(method)
        programs = (about or About()).programs

        def rows(params: Params, batch: Batch) -> jnp.ndarray:
            one, other, valid = space.features(params, batch)
            there = valid[:, None].astype(jnp.float32)
            sizes = jnp.full_like(there, one.shape[1])
            return jnp.concatenate(
                [there, sizes, jnp.where(valid[:, None], one, 0), jnp.where(valid[:, None], other, 0)], 1
            )

        found = per_video(programs((space.features, "rows"), rows), params, batches, ()).outputs
        has = found[:, 0] > 0  # a clip of the video at least
        if has.sum() < 2:
            raise ValueError(f"{has.sum()} of {len(has)} videos have {' and '.join(space.modalities)}: two are needed")
        width, both = int(found[0, 1]), found[has, 2:] / found[has, :1]
        finite(both, np.flatnonzero(has), "the features", "videos")
        project = programs(
            (space.project, "project"),
            lambda params, one, other: space.project(params, one, other, jnp.ones(len(one), bool)),
            alone=True,
        )
        one, other = (np.asarray(x) for x in project(params, both[:, :width], both[:, width:]))
        first, second = space.modalities
        numbers = {"pairs": float(len(both)), "left_out": float(len(has) - len(both))}
        for name, at in ((f"{first}_to_{second}", places(one, other)), (f"{second}_to_{first}", places(other, one))):
            numbers |= {f"{name}_r{rank}": float((at <= rank).mean()) for rank in self.ranks}
            numbers[f"{name}_median"] = float(np.median(at))
        return Results(numbers)

    def _chosen(self, method: Method) -> Any:
        spaces = method.common or {}
        if not spaces:
            raise ValueError("the method compares no two modalities, so that none is found by the other")
        if self.space is None and len(spaces) > 1:
            raise ValueError(f"the method has several spaces: set space to one of {', '.join(spaces)}")
        if self.space is not None and self.space not in spaces:
            raise ValueError(f"there is no space {self.space!r}, only {', '.join(spaces)}")
        return spaces[self.space or next(iter(spaces))]


@register("evaluator")
def cross_retrieval(ranks: Sequence[int] = (1, 5, 10), space: str | None = None) -> CrossRetrieval:
    """Retrieval between two modalities of the same videos, each way, by the cosine of their vectors.

    Every video is a query once, and all videos are candidates; the right one is the video itself. Videos without one of
    the modalities are left out. Clips of a video are averaged before they are projected.

    Args:
      ranks: the values of R in the recall at R: the share of queries whose partner is among the nearest R.
      space: the part of the method whose space it is, where there are several.

    Raises:
      ValueError: if a rank is below 1.
    """
    if not ranks or min(ranks) < 1:
        raise ValueError(f"ranks must be at least 1, got {list(ranks)}")
    return CrossRetrieval(tuple(ranks), space)


def places(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return the place of each query's partner, the candidate of the same row, among all, from 1 on.

    Those at equal distance count half, so that equal vectors have the place that chance has.
    """
    found = []
    for start in range(0, len(queries), BLOCK):
        close = queries[start : start + BLOCK] @ candidates.T
        own = close[np.arange(len(close)), start + np.arange(len(close))][:, None]
        found.append(1 + (close > own).sum(1) + ((close == own).sum(1) - 1) / 2)
    return np.concatenate(found)
