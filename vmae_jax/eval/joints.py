"""Joints as labels of tokens, and how far they are found from the truth (PCK)."""

import numpy as np

__all__ = ["distances", "maps", "pck", "places"]

SIGMA = 0.5  # tokens
PEAKS = 5  # tokens whose weighted mean is a joint's place
BOX = 0.6  # share of the diagonal around all joints that is the size of a person


def maps(points: np.ndarray, grid: tuple[int, int], size: tuple[int, int], count: int) -> np.ndarray:
    """Return the labels of tokens, float32 [y x count]: the background, then a small Gaussian for each joint.

    Args:
      points: in pixels (x, y), [joints 2].
      grid: tokens, down and across.
      size: height and width of the picture in pixels.
      count: labels, at least one more than joints.
    """
    labels = np.zeros((*grid, count), np.float32)
    rows, columns = np.arange(grid[0])[:, None], np.arange(grid[1])[None]
    for joint, (x, y) in enumerate(points):
        across, down = int(np.floor(x * grid[1] / size[1] + 0.5)), int(np.floor(y * grid[0] / size[0] + 0.5))
        # The drawn patch of the public evaluation: four tokens a side, from two before the nearest one.
        near = (np.abs(rows - down + 0.5) < 2) & (np.abs(columns - across + 0.5) < 2)
        labels[..., 1 + joint] = near * np.exp(-((rows - down) ** 2 + (columns - across) ** 2) / (2 * SIGMA**2))
    labels[..., 0] = labels[..., 1:].sum(axis=-1) == 0
    return labels


def places(labels: np.ndarray, joints: int, size: tuple[int, int]) -> np.ndarray:
    """Return where the joints are in pixels (x, y), NaN where one is lost, [joints 2].

    Args:
      labels: of tokens, as `maps` has them.
      joints: how many.
      size: height and width of the picture in pixels.
    """
    grid = labels.shape[:2]
    flat = labels[..., 1 : 1 + joints].reshape(-1, joints)
    order = np.argsort(-flat, axis=0, kind="stable")[:PEAKS]
    weight = np.take_along_axis(flat, order, axis=0)
    total = weight.sum(axis=0)
    weight = np.divide(weight, total, out=np.full_like(weight, np.nan), where=total > 0)
    y, x = np.unravel_index(order, grid)
    return np.stack([(x * weight).sum(0) * size[1] / grid[1], (y * weight).sum(0) * size[0] / grid[0]], axis=1)


def distances(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return each joint's distance over the size of the person in its frame, NaN where it is lost, [frames joints].

    Args:
      truth, found: in pixels, [frames joints 2].
    """
    seen = np.isfinite(found).all(axis=-1, keepdims=True)
    low = np.where(seen, truth, np.inf).min(axis=1)
    high = np.where(seen, truth, -np.inf).max(axis=1)
    size = BOX * np.linalg.norm(np.where(np.isfinite(high), high - low, 1), axis=1)
    apart = np.linalg.norm(truth - found, axis=-1)
    return apart / np.maximum(size, 1e-12)[:, None]


def pck(apart: np.ndarray, threshold: float) -> float:
    """Return the mean over joints of the share of places within a threshold, in percent.

    Args:
      apart: of `distances`, frames of all videos, [frames joints]; lost joints count in no share.
      threshold: of a person's size.
    """
    with np.errstate(invalid="ignore"):
        near = (apart <= threshold).sum(axis=0)
    count = np.isfinite(apart).sum(axis=0)
    return float(100 * np.mean(near[count > 0] / count[count > 0])) if count.any() else 0.0
