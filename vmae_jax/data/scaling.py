"""Shows a part of a picture at another size: bilinear with antialiasing, as Pillow, to one grey level.

libswscale does the work, through PyAV: it is in every wheel, has SIMD code for each processor and
needs neither TensorFlow nor a copy of the crop. On noise and at the outermost pixels it differs from Pillow by more;
where that matters Pillow itself scales (`PILLOW`). Each colour is scaled as a grey picture of its own,
because libswscale would scale RGB by way of YUV, with half the colour; flags ask for the exact and
platform-independent code.
"""

from typing import Any, NamedTuple

import numpy as np

__all__ = ["INTERPOLATIONS", "Scaler", "View", "planes", "shown", "whole"]

PILLOW = {"exact_bilinear": "BILINEAR", "bicubic": "BICUBIC"}  # our name of an interpolation -> Pillow's
INTERPOLATIONS = ("bilinear", *PILLOW)
_PADDING = 64  # bytes that SIMD code may read past the end


class View(NamedTuple):
    """A box of the picture, scaled, a window of that, perhaps mirrored.

    Attributes:
      top, left, height, width: of the box, in pixels of the picture.
      rows, columns: what the box is scaled to.
      window: what is shown of the scaled box: top, left, height, width; None is all.
      mirrored: left to right, at the end.
      interpolation: one of `INTERPOLATIONS`.
      inside: another view, not mirrored, of which the box is a part (and not of the picture): scaled twice.
    """

    top: int
    left: int
    height: int
    width: int
    rows: int
    columns: int
    window: tuple[int, int, int, int] | None = None
    mirrored: bool = False
    interpolation: str = "bilinear"
    inside: "View | None" = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what is shown."""
        return (self.rows, self.columns) if self.window is None else self.window[2:]


def whole(height: int, width: int, *, mirrored: bool = False) -> View:
    """The picture as it is, or mirrored."""
    return View(0, 0, height, width, height, width, mirrored=mirrored)


def planes(picture: np.ndarray) -> np.ndarray:
    """The colours of a picture [h w c] apart, [c h w], with room behind for SIMD code."""
    height, width, channels = picture.shape
    out = np.empty(channels * height * width + _PADDING, np.uint8)[:-_PADDING].reshape(channels, height, width)
    for channel in range(channels):
        out[channel] = picture[..., channel]
    return out


class Scaler:
    """Shows views; keeps libswscale's tables from one picture to the next. For one thread at a time."""

    def __init__(self) -> None:
        from av.video.frame import VideoFrame  # a config that is only built does without
        from av.video.reformatter import Interpolation, VideoReformatter

        self._frame = VideoFrame.from_numpy_buffer
        self._reformat = VideoReformatter().reformat
        self._how = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT

    def __call__(self, colours: np.ndarray, view: View, out: np.ndarray) -> None:
        """Writes what `view` shows of a picture, given as `planes`, into `out`, uint8 [h w c]."""
        if view.inside is not None:
            outer = np.empty((*view.inside.shape, len(colours)), np.uint8)
            self(colours, view.inside, outer)
            colours = planes(outer)
        box = colours[:, view.top : view.top + view.height, view.left : view.left + view.width]
        same = (view.height, view.width) == (view.rows, view.columns)
        top, left, height, width = view.window or (0, 0, view.rows, view.columns)
        for channel, plane in enumerate(box):
            scaled = plane if same else self._scaled(plane, view)
            seen = scaled[top : top + height, left : left + width]
            out[..., channel] = seen[:, ::-1] if view.mirrored else seen

    def _scaled(self, plane: np.ndarray, view: View) -> np.ndarray:
        rows, columns = view.rows, view.columns
        if view.interpolation in PILLOW:
            return _by_pillow(plane, rows, columns, PILLOW[view.interpolation])
        source = self._frame(plane, format="gray")
        frame: Any = self._reformat(source, columns, rows, interpolation=self._how, threads=1)
        line = frame.planes[0].line_size
        return np.frombuffer(frame.planes[0], np.uint8).reshape(-1, line)[:rows, :columns]


def _by_pillow(plane: np.ndarray, rows: int, columns: int, name: str) -> np.ndarray:
    from PIL import Image  # a config that is only built does without

    return np.asarray(Image.fromarray(plane).resize((columns, rows), Image.Resampling[name]))


def shown(video: np.ndarray, view: View) -> np.ndarray:
    """What `view` shows of each picture of a clip, uint8 [t h w c]."""
    scaler = Scaler()
    out = np.empty((len(video), *view.shape, video.shape[-1]), np.uint8)
    for picture, place in zip(video, out, strict=True):
        scaler(planes(picture), view, place)
    return out
