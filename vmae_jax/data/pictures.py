"""Decoded frames as pictures: upright, in RGB or grey, one at a time."""

from collections.abc import Iterator, Sequence

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from vmae_jax.data.video import BadVideo

__all__ = ["pictures", "quarter_turns"]


def pictures(frames: Sequence[VideoFrame | None], channels: int) -> Iterator[np.ndarray]:
    """Each frame as uint8 [h w c]; a gap shows what a player would, the frame before it.

    Raises:
      BadVideo: the frames change their size, or are rotated by other than quarter turns.
    """
    convert, held = VideoReformatter(), _held(frames)
    height, width = held[0].height, held[0].width
    quarters = quarter_turns(held[0])
    last, picture = None, np.empty(0)
    for frame in held:
        if frame is not last:
            if (frame.height, frame.width) != (height, width):
                raise BadVideo(f"changes its size from {width}x{height} to {frame.width}x{frame.height}")
            plain = convert.reformat(frame, format="rgb24" if channels == 3 else "gray", threads=1)
            picture = np.rot90(plain.to_ndarray().reshape(height, width, channels), quarters)
            last = frame
        yield picture


def quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that show the picture upright."""
    if frame.rotation % 90:
        raise BadVideo(f"is rotated by {frame.rotation} degrees; only quarter turns are read")
    return (frame.rotation // 90) % 4


def _held(frames: Sequence[VideoFrame | None]) -> list[VideoFrame]:
    """Fills a gap with the frame before it; a first gap with the next frame."""
    known = next(frame for frame in frames if frame is not None)
    held = []
    for frame in frames:
        known = frame if frame is not None else known
        held.append(known)
    return held
