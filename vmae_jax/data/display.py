"""Decoded frames: in their order, as pictures the way a player shows them, and how their blocks move.

Pictures have square pixels and are upright. A stored pixel may be wider or higher than a square (DV, DVD, broadcasts):
`square` has the size at which the picture is shown, and frames are scaled to it while they are converted, in one step.
The side that is too short grows, so no detail is lost.

A frame marked as interlaced holds two fields, each half of the lines, that were filmed one after the other.
Only its upper field is shown, scaled to the full height: half of the vertical detail, no combs, and no need of
the frames around it, so a frame is the same whether the whole video or that frame alone is read.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from vmae_jax.data.video import BadVideo

__all__ = [
    "BLOCK",
    "EXACT",
    "OPTIONS",
    "REORDER",
    "Display",
    "Vectors",
    "ascending",
    "pictures",
    "quarter_turns",
    "seconds",
    "square",
    "stamped",
    "vectors_of",
]

REORDER = 8  # frames by which damaged time stamps may be out of order
# The same pixels on every kind of processor.
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
BLOCK = 4  # pixels of a side: the smallest block that a codec moves
OPTIONS = {"flags2": "+export_mvs"}  # of a decoder that exports vectors


def square(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Return the width and height at which a picture of `width` x `height` pixels has square ones.

    Args:
      width: of the picture, as it is stored.
      height: of the picture, as it is stored.
      aspect: width of a stored pixel over its height.
    """
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def quarter_turns(frame: VideoFrame) -> int:
    """Return how many counter-clockwise quarter turns show a frame upright.

    Raises:
      BadVideo: if it is rotated by another angle.
    """
    if frame.rotation % 90:
        raise BadVideo(f"is rotated by {frame.rotation} degrees; only quarter turns are read", "unsupported")
    return (frame.rotation // 90) % 4


class Display:
    """Scales and converts the frames of one video; rotation is left to the caller."""

    def __init__(self) -> None:
        self._convert = VideoReformatter()
        self._fields: dict[tuple[str, int, int], Graph] = {}

    def __call__(self, frame: VideoFrame, width: int, height: int, pixels: str, **more: Any) -> VideoFrame:
        """Return a frame at a size, in a pixel format; `more` goes to libswscale.

        A frame that keeps its size is only converted, by libswscale's default unless `more` has another method.
        """
        if frame.interlaced_frame:
            frame = self._field(frame)
        if (frame.width, frame.height) == (width, height):
            return self._convert.reformat(frame, format=pixels, threads=1, **more)
        more = {"interpolation": EXACT} | more
        return self._convert.reformat(frame, width=width, height=height, format=pixels, threads=1, **more)

    def _field(self, frame: VideoFrame) -> VideoFrame:
        """The upper field: every other line, from the first."""
        key = (frame.format.name, frame.width, frame.height)
        if key not in self._fields:
            self._fields = {key: _field_graph(*key)}
        graph = self._fields[key]
        frame.pts = None  # frames come in any order
        graph.push(frame)
        field = graph.pull()
        assert isinstance(field, VideoFrame)
        return field


def _field_graph(pixels: str, width: int, height: int) -> Graph:
    graph = Graph()
    layout = VideoFormat(pixels, width, height)
    source = graph.add_buffer(width=width, height=height, format=layout, time_base=Fraction(1, 25))
    field, sink = graph.add("field", "type=top"), graph.add("buffersink")
    source.link_to(field)
    field.link_to(sink)
    graph.configure()
    return graph


def pictures(frames: Sequence[VideoFrame | None], channels: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Each frame as uint8 [h w c], upright; a gap shows what a player would, the frame before it.

    Args:
      frames: as they are stored, in order.
      channels: 3 (RGB) or 1 (grey).
      size: width and height at which every frame is shown before it is turned, whatever its own size.

    Raises:
      BadVideo: if the frames are rotated by other than quarter turns.
    """
    display, held = Display(), _held(frames)
    width, height = size
    quarters = quarter_turns(held[0])
    last, picture = None, np.empty(0)
    for frame in held:
        if frame is not last:
            plain = display(frame, width, height, "rgb24" if channels == 3 else "gray")
            picture = np.rot90(plain.to_ndarray().reshape(height, width, channels), quarters)
            last = frame
        yield picture


def _held(frames: Sequence[VideoFrame | None]) -> list[VideoFrame]:
    """Fills a gap with the frame before it; a first gap with the next frame."""
    known = next(frame for frame in frames if frame is not None)
    held = []
    for frame in frames:
        known = frame if frame is not None else known
        held.append(known)
    return held


def ascending(frames: Iterator[tuple[int, VideoFrame]], first: int) -> Iterator[tuple[int, VideoFrame]]:
    """Frames by ascending number from `first`; one is held back only while an earlier one may still come."""
    waiting: dict[int, VideoFrame] = {}
    expected = first
    for number, frame in frames:
        if number >= expected:
            waiting[number] = frame
        while waiting and (expected in waiting or len(waiting) > REORDER):
            number = min(waiting)
            yield number, waiting.pop(number)
            expected = number + 1
    for number in sorted(waiting):
        yield number, waiting[number]


def stamped(frames: Iterator[VideoFrame]) -> Iterator[tuple[int, VideoFrame]]:
    for frame in frames:
        if frame.pts is not None:
            yield frame.pts, frame


def seconds(clock: str) -> float | None:
    """Seconds of a tag such as "00:01:02.500000000"; None when it is no such tag."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", clock.strip())
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None


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
