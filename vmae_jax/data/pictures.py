"""Decoded frames as pictures: as they are shown, in RGB or grey, one at a time."""

from collections.abc import Iterator, Sequence

import numpy as np
from av.video.frame import VideoFrame

from vmae_jax.data.display import Display, quarter_turns

__all__ = ["pictures"]


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
