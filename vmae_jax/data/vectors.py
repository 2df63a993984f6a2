"""Motion vectors of a decoded frame as a grid of blocks."""

import dataclasses
from typing import Any

import numpy as np
from av.video.frame import VideoFrame

from vmae_jax.data.display import quarter_turns

__all__ = ["BLOCK", "OPTIONS", "Vectors", "vectors_of"]

BLOCK = 4  # pixels of a side: the smallest block that a codec moves
OPTIONS = {"flags2": "+export_mvs"}  # of a decoder that exports vectors


@dataclasses.dataclass(frozen=True)
class Vectors:
    """How the blocks of an upright picture move.

    Attributes:
      upright: displacements to the right and down as shares of the picture's width and height, float32 [h w 2]; its
        last row and column may reach past the picture.
      rows: of the picture, in stored pixels, after it was turned.
      columns: of the picture, in stored pixels, after it was turned.
    """

    upright: np.ndarray
    rows: int
    columns: int


def vectors_of(frame: VideoFrame) -> Vectors | None:
    """Return the vectors of a frame, upright; None where the codec predicted nothing of it."""
    exported: Any = frame.side_data.get("MOTION_VECTORS")
    if exported is None or len(exported) == 0:
        return None
    grid = _grid(exported.to_ndarray(), frame.height, frame.width)
    return _turned(grid, frame.height, frame.width, quarter_turns(frame))


def _grid(blocks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Displacements in pixels, float32 [h w 2] in blocks; where two predictions meet, the one from the past counts."""
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    grid = np.zeros((rows, columns, 2), np.float32)
    for future in (True, False):
        chosen = blocks[(blocks["source"] > 0) == future]
        for tall, wide in np.unique(np.stack([chosen["h"], chosen["w"]], 1), axis=0).tolist():
            same = chosen[(chosen["h"] == tall) & (chosen["w"] == wide)]
            scale = np.maximum(same["motion_scale"], 1)
            # A vector points to where the block came from, in the past; or to where it goes, in the future.
            moved = np.stack([same["motion_x"], same["motion_y"]], 1) / scale[:, None] * (1 if future else -1)
            top, left = (
                (same["dst_y"].astype(int) - tall // 2) // BLOCK,
                (same["dst_x"].astype(int) - wide // 2) // BLOCK,
            )
            for down in range(max(1, tall // BLOCK)):
                for across in range(max(1, wide // BLOCK)):
                    row, column = top + down, left + across
                    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
                    grid[row[inside], column[inside]] = moved[inside]
    return grid


def _turned(grid: np.ndarray, height: int, width: int, quarters: int) -> Vectors:
    """Turn a grid counter-clockwise by quarters, as the picture is, and its vectors with it."""
    if quarters:
        # What reaches past the picture would be on another side once turned: cut it off, at the size of blocks.
        grid = grid[: max(1, height // BLOCK), : max(1, width // BLOCK)]
        height, width = grid.shape[0] * BLOCK, grid.shape[1] * BLOCK
    for _ in range(quarters):
        grid = np.rot90(grid)
        grid = np.stack([grid[..., 1], -grid[..., 0]], -1)  # right becomes up, down becomes right
        height, width = width, height
    return Vectors(grid / np.array([width, height], np.float32), height, width)
