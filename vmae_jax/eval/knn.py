"""Nearest neighbours on frozen features: classification by vote, and retrieval."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vmae_jax.eval.collect import About, Results, embed, embed_both, unit
from vmae_jax.eval.scores import top
from vmae_jax.registry import register
from vmae_jax.types import Batch, Method, Params

__all__ = ["Knn", "Retrieval", "knn", "retrieval", "vote"]

BLOCK = 1024  # queries compared at once


@dataclasses.dataclass(frozen=True)
class Knn:
    """See `knn`."""

    train: Any
    k: int
    temperature: float
    layer: int | None
    label: str

    def __call__(
        self, method: Method, params: Params, batches: Iterable[Batch], train: Iterable[Batch],
        about: About | None = None,
    ) -> Results:  # fmt: skip
        """Return top1, top5 (for more than five classes) and the numbers of videos."""
        (known, label), (query, truth) = embed_both(
            method, params, batches, train, about, layer=self.layer, label=self.label
        )
        scores = vote(known, label, query, k=self.k, temperature=self.temperature)
        hit = np.argsort(-scores, axis=1, kind="stable") == truth[:, None]
        place = np.where(hit.any(axis=1), hit.argmax(axis=1), scores.shape[1])  # the training set may lack the class
        numbers = top(place, scores.shape[1])
        return Results(numbers | {"videos": float(len(query)), "neighbours": float(len(known))})


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """See `retrieval`."""

    train: Any
    ranks: tuple[int, ...]
    layer: int | None
    label: str

    def __call__(
        self, method: Method, params: Params, batches: Iterable[Batch], train: Iterable[Batch] | None = None,
        about: About | None = None,
    ) -> Results:  # fmt: skip
        """Return r1, r5, … and the number of queries."""
        programs = (about or About()).programs
        query, mine = embed(method, params, batches, programs, layer=self.layer, label=self.label)
        gallery, theirs = query, mine
        if train is not None:
            gallery, theirs = embed(
                method, params, train, programs, layer=self.layer, label=self.label, of="gallery videos"
            )
        others = len(gallery) - (train is None)
        if others < 1:
            raise ValueError("retrieval needs at least two videos, or train=")
        deepest = min(max(self.ranks), others)  # the query itself, the farthest, is never among them
        hits = []
        for start, close in _similar(query, gallery):
            if train is None:  # a video does not find itself
                close[np.arange(len(close)), start + np.arange(len(close))] = -np.inf
            nearest = np.argsort(-close, axis=1, kind="stable")[:, :deepest]
            hits.append(theirs[nearest] == mine[start : start + len(close), None])
        hit = np.concatenate(hits)
        numbers = {f"r{rank}": float(hit[:, :rank].any(axis=1).mean()) for rank in self.ranks}
        return Results(numbers | {"videos": float(len(mine))})


@register("evaluator", train="loader")
def knn(train: Any, k: int = 20, temperature: float = 0.07, layer: int | None = None, label: str = "label") -> Knn:
    """Classification by the k nearest training videos, weighted (Wu et al. 2018; DINO).

    No parameter is trained.

    Args:
      train: a `data.pipeline.loader` with labels; the section's own data are the queries.
      k: neighbours, by cosine similarity.
      temperature: a neighbour votes with exp(similarity / temperature).
      layer: the block whose output is taken; None is the last.
      label: key of the classes in the batch.

    Raises:
      ValueError: if a number is out of range.
    """
    if k < 1 or temperature <= 0:
        raise ValueError(f"k must be at least 1 and temperature above 0, got {k} and {temperature}")
    return Knn(train, k, temperature, layer, label)


@register("evaluator", train="loader")
def retrieval(
    train: Any = None, ranks: Sequence[int] = (1, 5, 10, 20, 50), layer: int | None = None, label: str = "label"
) -> Retrieval:
    """Video-to-video retrieval: whether one of the nearest R has the class of the query (recall at R).

    Args:
      train: a `data.pipeline.loader` with labels to search; None searches the data of the queries,
        without the query itself.
      ranks: the values of R.
      layer: the block whose output is taken; None is the last.
      label: key of the classes in the batch.

    Raises:
      ValueError: if a rank is below 1.
    """
    if not ranks or min(ranks) < 1:
        raise ValueError(f"ranks must be at least 1, got {list(ranks)}")
    return Retrieval(train, tuple(ranks), layer, label)


def vote(
    known: np.ndarray, label: np.ndarray, query: np.ndarray, *, k: int = 20, temperature: float = 0.07
) -> np.ndarray:
    """Return the weight of every class among the k nearest of `known`, [queries classes]."""
    k, classes = min(k, len(known)), int(label.max()) + 1
    scores = np.zeros((len(query), classes))
    for start, close in _similar(query, known):
        nearest = np.argpartition(-close, k - 1, axis=1)[:, :k]
        # The nearest has weight 1, so small temperatures neither overflow nor vanish.
        similar = np.take_along_axis(close, nearest, axis=1)
        weight = np.exp((similar - similar.max(axis=1, keepdims=True)) / temperature)
        rows = start + np.arange(len(close))[:, None]
        np.add.at(scores, (rows, label[nearest]), weight)
    return scores


def _similar(query: np.ndarray, known: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    """Yield cosine similarities of blocks of queries: (index of the first, [block known])."""
    query, known = unit(query), unit(known)
    for start in range(0, len(query), BLOCK):
        yield start, query[start : start + BLOCK] @ known.T
