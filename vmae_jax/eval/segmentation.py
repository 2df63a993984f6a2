"""Metrics of segmentations: of objects as DAVIS has them, and of classes."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

__all__ = ["Statistics", "boundary", "confusion", "iou", "jaccard", "statistics"]

BOUND = 0.008  # share of a picture's diagonal within which boundaries match


class Statistics(NamedTuple):
    """What becomes of a measure over the frames of an object.

    Attributes:
      mean: of the frames.
      recall: share of the frames above 0.5.
      decay: mean of the first quarter of the frames minus that of the last.
    """

    mean: float
    recall: float
    decay: float


def jaccard(truth: np.ndarray, found: np.ndarray) -> float:
    """Return the intersection of two masks over their union, 1 if both are empty."""
    union = np.logical_or(truth, found).sum()
    return float(np.logical_and(truth, found).sum() / union) if union else 1.0


def boundary(truth: np.ndarray, found: np.ndarray, bound: float = BOUND) -> float:
    """Return the F-measure of a mask's boundary: which pixels of each are within a distance of the other's.

    Args:
      truth, found: bool [h w].
      bound: the distance as a share of the diagonal, rounded up to pixels.
    """
    edges = [_edge(np.asarray(mask, bool)) for mask in (truth, found)]
    counts = [edge.sum() for edge in edges]
    if not all(counts):
        return float(counts[0] == counts[1])
    rows, columns = (np.flatnonzero((edges[0] | edges[1]).any(axis)) for axis in (1, 0))
    edges = [edge[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] for edge in edges]
    reach = np.ceil(bound * np.linalg.norm(truth.shape))
    near = [ndimage.distance_transform_edt(~edge) <= reach for edge in edges]  # as dilated by a disk
    recall, precision = (edges[0] & near[1]).sum() / counts[0], (edges[1] & near[0]).sum() / counts[1]
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def statistics(values: np.ndarray) -> Statistics:
    """Return the statistics of a measure over frames, [frames]."""
    ends = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[ends[0] : ends[1] + 1], values[ends[3] : ends[4] + 1]
    return Statistics(float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean()))


def confusion(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Return how many pixels of each class (row) were found as each (column); truths that are no class are left out."""
    known = truth < classes
    pairs = classes * truth[known].astype(np.int64) + found[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def iou(counts: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each class of a confusion matrix, NaN for classes that never occur."""
    right = np.diag(counts).astype(float)
    union = counts.sum(0) + counts.sum(1) - right
    return np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0)


def _edge(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the next one to the right, below, or both; those outside the picture are as the last."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])
