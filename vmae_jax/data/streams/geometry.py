"""How places in a video's picture and places in what a clip shows of it correspond."""

import numpy as np

from vmae_jax.data.scaling import View, whole
from vmae_jax.data.streams.core import Clip

__all__ = ["sampled", "scale_of", "shown_boxes", "source_corners", "source_places", "view_of"]


def view_of(clip: Clip) -> View:
    """What a clip shows; whole pictures where there is no crop."""
    return clip.view or whole(*clip.picture)


def source_places(clip: Clip, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the centres of a grid over what is shown are in the picture, as shares of its sides.

    Returns:
      y float64 [rows] and x float64 [columns], within 0 to 1.
    """
    tall, wide = view_of(clip).shape
    return _out_of(clip, (np.arange(rows) + 0.5) * tall / rows, (np.arange(columns) + 0.5) * wide / columns)


def source_corners(clip: Clip) -> np.ndarray:
    """Return where the edges of what is shown are in the picture, as shares of its sides.

    Returns:
      float64 [4]: x at the left edge, y at the upper, x at the right and y at the lower edge; mirrored, the first is
        larger than the third.
    """
    tall, wide = view_of(clip).shape
    y, x = _out_of(clip, np.array([0.0, tall]), np.array([0.0, wide]))
    return np.array([x[0], y[0], x[1], y[1]])


def _out_of(clip: Clip, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move places from the pixels of what is shown into the picture, as shares of its sides."""
    view: View | None = view_of(clip)
    while view is not None:  # also through the view that this one is inside
        top, left, _, wide = view.window or (0, 0, view.rows, view.columns)
        y = view.top + (top + y) * view.height / view.rows
        x = view.left + (left + (wide - x if view.mirrored else x)) * view.width / view.columns
        view = view.inside
    return np.clip(y / clip.picture[0], 0, 1), np.clip(x / clip.picture[1], 0, 1)


def scale_of(view: View) -> tuple[float, float]:
    """Return how many pixels of what is shown a pixel of the picture is, across and down."""
    across, down = view.columns / view.width, view.rows / view.height
    if view.inside is None:
        return across, down
    outer = scale_of(view.inside)
    return across * outer[0], down * outer[1]


def shown_boxes(clip: Clip, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move boxes of the picture into what a clip shows.

    Args:
      boxes: (x0, y0, x1, y1) as shares of the picture's sides, float64 [n 4].

    Returns:
      the boxes as shares of what is shown, cut off at its edges [n 4]; and the share of each that is left [n].
    """
    view = view_of(clip)
    tall, wide = view.shape
    x, y = _into(view, boxes[:, [0, 2]] * clip.picture[1], boxes[:, [1, 3]] * clip.picture[0])
    moved = np.stack([x[:, 0] / wide, y[:, 0] / tall, x[:, 1] / wide, y[:, 1] / tall], 1)
    cut = np.clip(moved, 0, 1)
    area, left_over = (_area(some) for some in (moved, cut))
    return cut, np.divide(left_over, area, out=np.zeros_like(area), where=area > 0)


def _into(view: View, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move intervals [n 2] of the picture into the pixels of what is shown."""
    if view.inside is not None:
        x, y = _into(view.inside, x, y)
    top, left, _, wide = view.window or (0, 0, view.rows, view.columns)
    x = (x - view.left) * view.columns / view.width - left
    y = (y - view.top) * view.rows / view.height - top
    return (wide - x[:, ::-1] if view.mirrored else x), y


def sampled(plane: np.ndarray, y: np.ndarray, x: np.ndarray, *, linear: bool) -> np.ndarray:
    """Return values of a plane [h w c] over the whole picture at places of `source_places`, float64 [rows columns c].

    Args:
      linear: between the four pixels around a place; otherwise the pixel that it is in.
    """
    height, width = plane.shape[:2]
    if not linear:
        rows = np.minimum((y * height).astype(int), height - 1)
        columns = np.minimum((x * width).astype(int), width - 1)
        return plane[rows[:, None], columns[None]].astype(np.float64)
    down, across = np.clip(y * height - 0.5, 0, height - 1), np.clip(x * width - 0.5, 0, width - 1)
    row, column = (np.minimum(place.astype(int), side - 1) for place, side in ((down, height), (across, width)))
    below, right = np.minimum(row + 1, height - 1), np.minimum(column + 1, width - 1)
    low, far = (down - row)[:, None, None], (across - column)[None, :, None]
    upper = plane[row[:, None], column[None]] * (1 - far) + plane[row[:, None], right[None]] * far
    lower = plane[below[:, None], column[None]] * (1 - far) + plane[below[:, None], right[None]] * far
    return upper * (1 - low) + lower * low


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)
