"""Scores of outputs: accuracies, precision, calibration, confusion, errors of numbers. Only NumPy is used."""

from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "Bins",
    "auc",
    "average_precision",
    "calibration",
    "class_accuracy",
    "confusion",
    "correlation",
    "finite",
    "places",
    "ranks",
    "reliability",
    "single",
    "top",
]

BINS = 15
BEST = 5  # of the top-5 accuracy
SHOWN = 3  # offenders that an error lists


class Bins(NamedTuple):
    """Outputs in equal bins of confidence: their number, mean confidence, and accuracy."""

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def finite(values: np.ndarray, keys: Any = None, what: str = "the outputs", of: str = "videos") -> None:
    """Check that values are finite: a NaN compares as lower than nothing, so it would always count as correct.

    Args:
      values: one row per video.
      keys: of the videos, for the message; by default their rows.
      what: description of the values, for the message.
      of: description of the videos, for the message.

    Raises:
      ValueError: if there is a NaN or infinity.
    """
    wrong = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(wrong):
        raise ValueError(f"{what} of {_counted(wrong, keys, len(values), of)} are not finite (NaN or infinite)")


def single(label: np.ndarray, keys: Any = None, what: str = "label", of: str = "videos") -> None:
    """Check that labels are one class per video.

    Raises:
      ValueError: if there are several, other numbers, or a video without a class (-1).
    """
    if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(
            f"{what} must be one class number per video, but the {of} have {label.dtype} of shape {list(label.shape)}"
        )
    wrong = np.flatnonzero(label < 0)
    if len(wrong):
        raise ValueError(
            f"{_counted(wrong, keys, len(label), of)} have no class: {what} is {label[wrong[0]]}; leave such videos out"
        )


def _counted(wrong: np.ndarray, keys: Any, videos: int, of: str) -> str:
    """Return the number of affected videos, and the first of them."""
    first = ", ".join(str(i if keys is None else keys[i]) for i in wrong[:SHOWN].tolist())
    return f"{len(wrong)} of {videos} {of} ({first}{', …' if len(wrong) > SHOWN else ''})"


def places(scores: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the number of classes ranked before the true one, [n]; equal scores in the order of the classes."""
    own = np.take_along_axis(scores, label[:, None], axis=1)
    before = np.arange(scores.shape[1])[None] < label[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(axis=1)


def class_accuracy(hit: np.ndarray, label: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the videos of each class, and the share of correct ones (0 if there is none)."""
    counts = np.bincount(label, minlength=classes)
    return counts, np.bincount(label, weights=hit, minlength=classes) / np.maximum(counts, 1)


def confusion(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return the videos by true class (row) and predicted class (column), int [classes classes]."""
    counts = np.bincount(label * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def reliability(confidence: np.ndarray, hit: np.ndarray, bins: int = BINS) -> Bins:
    """Return equal bins of (0, 1], each including its upper edge (Guo et al. 2017)."""
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    means = (np.bincount(place, weights=w, minlength=bins) / np.maximum(count, 1) for w in (confidence, hit))
    return Bins(count, *means)


def calibration(bins: Bins) -> float:
    """Return the expected calibration error: the average difference of confidence and accuracy."""
    return float((bins.count * np.abs(bins.accuracy - bins.confidence)).sum() / max(bins.count.sum(), 1))


def average_precision(score: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean precision at each positive, best score first; NaN without a positive.

    Equal scores are one step, so that their order does not matter.
    """
    positives = float(truth.sum())
    if not positives:
        return float("nan")
    order = np.argsort(-score, kind="stable")
    score, hits = score[order], np.cumsum(truth[order])
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # of each run of equal scores
    precision, recall = hits[last] / (last + 1), hits[last] / positives
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def auc(score: np.ndarray, truth: np.ndarray) -> float:
    """Return the area under the ROC curve; NaN without a positive or without a negative.

    It is the share of pairs of a positive and a negative in which the positive has the larger score; pairs with equal
    scores count half.
    """
    positives = int(truth.sum())
    pairs = positives * (len(truth) - positives)
    if not pairs:
        return float("nan")
    return float((ranks(score)[truth].sum() - positives * (positives - 1) / 2) / pairs)


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value, from 0; equal values have their mean rank."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    first = np.cumsum(count) - count
    return (first + (count - 1) / 2.0)[place]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation; NaN if one of the two does not vary."""
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / length if length else float("nan")


def top(place: np.ndarray, classes: int) -> dict[str, float]:
    """Return the top-1 accuracy, and with more than five classes the top-5 accuracy.

    Args:
      place: of the true class among the scores of each video, from 0.
      classes: their number; with five or fewer the top-5 accuracy would always be 1.
    """
    numbers = {"top1": float((place == 0).mean())}
    return numbers | ({"top5": float((place < BEST).mean())} if classes > BEST else {})
