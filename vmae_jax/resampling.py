"""Interpolation between grids, with pixel centres at halves and borders repeated.

These are the conventions of `torch.nn.functional.interpolate(align_corners=False)` and `cv2.resize`.
"""

from collections.abc import Callable

import numpy as np

__all__ = ["cubic", "linear", "matrix", "resized"]


def matrix(old: int, new: int, kernel: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the matrix that interpolates `old` samples at `new` positions, [new old]; borders are repeated.

    Args:
      old, new: numbers of samples.
      kernel: `linear` or `cubic`.
    """
    place = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    base = np.floor(place).astype(int)
    for tap in range(-1, 3):
        weight = kernel(np.abs(place - (base + tap)))
        np.add.at(weights, (np.arange(new), np.clip(base + tap, 0, old - 1)), weight)
    return weights


def linear(distance: np.ndarray) -> np.ndarray:
    """Return the weights of samples at a distance, for linear interpolation."""
    return np.maximum(1.0 - distance, 0.0)


def cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Return the weights of samples at a distance, for cubic convolution."""
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def resized(picture: np.ndarray, height: int, width: int, *, nearest: bool = False) -> np.ndarray:
    """Return a picture or a map of labels, uint8 [h w …], at another size.

    Args:
      picture: to be scaled.
      height, width: of the result.
      nearest: take the pixel that each place is in, for labels. Otherwise interpolate linearly, without antialiasing.
    """
    places = [(np.arange(new) + 0.5) * old / new for old, new in zip(picture.shape, (height, width), strict=False)]
    if nearest:
        rows, columns = (np.minimum(place.astype(int), old - 1) for place, old in zip(places, picture.shape))
        return picture[rows[:, None], columns]
    if picture.shape[:2] == (height, width):
        return picture
    result = picture.astype(np.float32)
    for axis, place in enumerate(places):
        place = np.clip(place - 0.5, 0, picture.shape[axis] - 1)
        low = place.astype(int)
        high = np.minimum(low + 1, picture.shape[axis] - 1)
        share = (place - low).astype(np.float32).reshape([-1 if one == axis else 1 for one in range(picture.ndim)])
        result = result.take(low, axis) * (1 - share) + result.take(high, axis) * share
    return np.rint(result).astype(picture.dtype)
