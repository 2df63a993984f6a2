"""Frames brought into the shape in which they are stored."""

from typing import Any

import numpy as np
from av.video.frame import VideoFrame

from vmae_jax.data.display import EXACT, Display, quarter_turns
from vmae_jax.data.prepare.options import Options
from vmae_jax.data.video import BadVideo

__all__ = ["Fit"]


class Fit:
    """Brings frames into the shape in which they are stored: upright, square pixels, shrunk, even sides for h264.

    Args:
      first: a frame of the video.
      options: how it is to be stored.
      size: width and height of a frame in square pixels, before it is turned.
    """

    def __init__(self, first: VideoFrame, options: Options, size: tuple[int, int]) -> None:
        self._show = Display()
        self._h264 = options.codec == "h264"
        self._quarters = quarter_turns(first)
        width, height = self._turned(size)
        shrink = min(1.0, options.short_side / min(width, height)) if options.short_side else 1.0
        if shrink < 1.0:
            self.width, self.height = (max(2, 2 * round(side * shrink / 2)) for side in (width, height))
            self._scaled = self._turned((self.width, self.height))
        else:
            self.width, self.height = (side - side % 2 if self._h264 else side for side in (width, height))
            self._scaled = size
        if min(self.width, self.height) < 2:
            raise BadVideo(f"has {width}x{height} pixels, too few to encode")
        self._cropped = self._turned(self._scaled) != (self.width, self.height)

    def _turned(self, size: tuple[int, int]) -> tuple[int, int]:
        return (size[1], size[0]) if self._quarters % 2 else size

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        how: dict[str, Any] = {"dst_color_range": "MPEG"} if self._h264 else {}
        wanted = "yuv420p" if self._h264 else "rgb24"
        if not (self._quarters or self._cropped):
            return self._show(frame, *self._scaled, wanted, interpolation=EXACT, **how)
        picture = self._show(frame, *self._scaled, "rgb24", interpolation=EXACT).to_ndarray()
        picture = np.rot90(picture.astype(np.uint8, copy=False), self._quarters)[: self.height, : self.width]
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        return self._show(frame, self.width, self.height, wanted, interpolation=EXACT, **how)
