"""Scores of moments that were found in videos: average precision and recall by their overlap in time. NumPy alone."""

from typing import NamedTuple

import numpy as np

__all__ = ["Moments", "average_precision", "overlap", "recall", "suppressed"]


class Moments(NamedTuple):
    """Moments of one or several videos.

    Attributes:
      video: the number of each one's video, [n].
      span: begin and end, [n 2].
      label: classes, [n].
      score: how sure a model is, [n]; ones for the truth.
    """

    video: np.ndarray
    span: np.ndarray
    label: np.ndarray
    score: np.ndarray

    @classmethod
    def join(cls, parts: "list[Moments]") -> "Moments":
        """Return all moments of several parts."""
        parts = [cls(np.zeros(0, int), np.zeros((0, 2)), np.zeros(0, int), np.zeros(0)), *parts]
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def chosen(self, which: np.ndarray) -> "Moments":
        """Return some of them: by a mask, or by their places."""
        return Moments(*(array[which] for array in self))


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return intersection over union of every pair of spans, [n m]."""
    both = np.minimum(one[:, None, 1], other[None, :, 1]) - np.maximum(one[:, None, 0], other[None, :, 0])
    both = np.maximum(both, 0.0)
    lengths = (one[:, 1] - one[:, 0])[:, None] + (other[:, 1] - other[:, 0])[None]
    return both / np.maximum(lengths - both, 1e-12)


def suppressed(found: Moments, most: float) -> Moments:
    """Return the moments of one class and video, the surest first, without those that overlap a surer one by more."""
    order = np.argsort(-found.score, kind="stable")
    overlaps, kept = overlap(found.span, found.span), []
    for place in order:
        if all(overlaps[place, other] <= most for other in kept):
            kept.append(place)
    return found.chosen(np.asarray(kept, int))


def average_precision(found: Moments, truth: Moments, least: float) -> float:
    """Return the average precision of one class; NaN if the class has no moment.

    The surest moment of all videos comes first. It is right if it overlaps by `least` or more a true moment that no
    surer one has taken, of several the one that it overlaps most. Precision is interpolated: at each recall it is the
    best of any higher recall (ActivityNet).

    Args:
      found: of one class.
      truth: of the same class.
      least: intersection over union, above 0.
    """
    if not len(truth.video):
        return float("nan")
    taken, right = np.zeros(len(truth.video), bool), np.zeros(len(found.video), bool)
    order = np.argsort(-found.score, kind="stable")
    for rank, place in enumerate(order):
        own = np.flatnonzero((truth.video == found.video[place]) & ~taken)
        if not len(own):
            continue
        overlaps = overlap(found.span[place : place + 1], truth.span[own])[0]
        if overlaps.max() >= least:
            right[rank] = taken[own[overlaps.argmax()]] = True
    hits = np.cumsum(right)
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(precision[right].sum() / len(truth.video))


def recall(found: Moments, truth: Moments, times: int, least: float) -> float:
    """Return the share of true moments that are among the surest ones found in their video and of their class.

    Of a class that is x times in a video, these are the surest `times` · x (Ego4D's recall at kx).

    Args:
      found: of all classes and videos.
      truth: of all classes and videos, at least one.
      times: how many for each true moment.
      least: intersection over union, above 0.
    """
    hits = 0
    for video, label in {*zip(truth.video.tolist(), truth.label.tolist(), strict=True)}:
        own = truth.chosen((truth.video == video) & (truth.label == label))
        given = found.chosen((found.video == video) & (found.label == label))
        given = given.chosen(np.argsort(-given.score, kind="stable")[: times * len(own.video)])
        if len(given.video):
            hits += int((overlap(own.span, given.span).max(axis=1) >= least).sum())
    return hits / len(truth.video)
