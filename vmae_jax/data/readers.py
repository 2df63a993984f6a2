"""Readers of videos that are no file of their own (see `decode.Reader`).

`Stills` are pictures, one a frame: files of a folder, or their bytes in a record. A `Moment` is some seconds of a long
video, read in place; nothing is copied or encoded.
"""

import dataclasses
import io
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from vmae_jax.data.containers import Video, open_video
from vmae_jax.data.display import Vectors
from vmae_jax.data.video import BadVideo, Limits, VideoInfo

__all__ = ["PICTURE_FORMATS", "Moment", "Stills", "open_stills"]

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP")
DEFAULT_RATE = 25.0
_ROUNDING = 1e-6  # seconds: time stamps are rounded to the file's time base
_last = threading.local()  # the long video that this thread read last: its packets are counted once


def open_stills(frames: Sequence[str | bytes], *, rate: float | None, limits: Limits) -> "Stills":
    """A reader of the pictures; only the first is looked at here.

    Raises:
      BadVideo: there is no picture, too many, or the first cannot be read.
    """
    if not frames:
        raise BadVideo("has no frame")
    if len(frames) > limits.frames:
        raise BadVideo(f"has {len(frames)} frames; the limit is {limits.frames}")
    with _open_picture(frames[0], 0, limits) as picture:
        width, height = picture.size
        container = (picture.format or "").lower()
    rate = rate or DEFAULT_RATE
    info = VideoInfo(
        num_frames=len(frames),
        rate=rate,
        times=np.arange(len(frames)) / rate,
        height=height,
        width=width,
        codec=container,
        container="pictures",
    )
    return Stills(frames, info, limits)


class Stills:
    """An open list of pictures; pictures are decoded only when asked for."""

    def __init__(self, frames: Sequence[str | bytes], info: VideoInfo, limits: Limits) -> None:
        self.info = info
        self.stamps: Sequence[int] = range(info.num_frames)
        self.time_base = 1 / Fraction(info.rate).limit_denominator(1001)
        self._frames = frames
        self._limits = limits

    def pictures(self, indices: Sequence[int], channels: int) -> Iterator[np.ndarray]:
        """The frames `indices`, each uint8 [h w c]."""
        shape = (self.info.height, self.info.width, channels)
        for index in indices:
            with _open_picture(self._frames[index], index, self._limits) as picture:
                if picture.size != (self.info.width, self.info.height):
                    first = f"{self.info.width}x{self.info.height}"
                    raise BadVideo(f"frame {index} is {picture.width}x{picture.height}, the first {first}")
                try:
                    pixels = np.asarray(picture.convert("RGB" if channels == 3 else "L")).reshape(shape)
                except (OSError, ValueError, SyntaxError) as error:
                    raise BadVideo(f"frame {index} cannot be decoded: {error}") from error
            yield pixels

    def frames(self) -> Iterator[tuple[int, VideoFrame]]:
        """Every picture in order, with its number. Raises BadVideo: as `pictures`."""
        for index in range(self.info.num_frames):
            yield index, VideoFrame.from_ndarray(next(self.pictures([index], 3)), format="rgb24")

    def motion(self, index: int) -> None:
        """Pictures have no motion vectors."""

    def close(self) -> None:
        """Nothing is held open between reads."""


def _open_picture(frame: str | bytes, index: int, limits: Limits) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(frame) if isinstance(frame, bytes) else frame, formats=PICTURE_FORMATS)
    except FileNotFoundError as error:
        raise BadVideo(f"frame {index} is missing: {frame!r}", "missing") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadVideo(f"frame {index} is no {', '.join(PICTURE_FORMATS)} picture") from error
    if picture.width * picture.height > limits.pixels:
        picture.close()
        raise BadVideo(f"frame {index} has {picture.width}x{picture.height} pixels; the limit is {limits.pixels}")
    return picture


class Moment:
    """The frames shown from second `start` to before second `stop` (see `decode.Reader`).

    Frame numbers, times and time stamps count from the first of them. The long video stays open for the next
    moment of it, because the rows of a dataset come one after another.

    Raises:
      BadVideo: if the file cannot be read, or has no frame there.
    """

    def __init__(self, path: str, start: float, stop: float, *, limits: Limits, motion: bool = False) -> None:
        self._video = _opened(path, limits, motion)
        times = np.asarray(self._video.info.times)
        first, last = np.searchsorted(times, (start - _ROUNDING, stop - _ROUNDING)).tolist()
        if first >= last:
            raise BadVideo(f"has no frame from second {start:g} to {stop:g}; it lasts {times[-1]:.1f} s")
        self._first, self._last = first, last
        self.time_base = self._video.time_base
        self.stamps: Sequence[int] = [stamp - self._video.stamps[first] for stamp in self._video.stamps[first:last]]
        self.info = dataclasses.replace(
            self._video.info,
            num_frames=last - first,
            times=times[first:last] - times[first],
            start=float(times[first]),
            first=first,
        )

    def pictures(self, indices: Sequence[int], channels: int) -> Iterator[np.ndarray]:
        """The frames `indices`, ascending and distinct, each uint8 [h w c]; see `containers.Video.pictures`."""
        return self._video.pictures([self._first + index for index in indices], channels)

    def motion(self, index: int) -> Vectors | None:
        """Return the motion vectors of a frame; see `containers.Video.motion`."""
        return self._video.motion(self._first + index)

    def frames(self) -> Iterator[tuple[int, VideoFrame]]:
        """Every frame that the decoder gives, with its number; see `containers.Video.frames`."""
        for number, frame in self._video.frames(self._first):
            if number >= self._last:
                return
            yield number - self._first, frame

    def close(self) -> None:
        """Leave the long video open for the next moment; another file takes its place."""


def _opened(path: str, limits: Limits, motion: bool) -> Video:
    key = (path, limits, motion)
    if getattr(_last, "key", None) != key:
        if getattr(_last, "key", None) is not None:
            _last.key = None
            _last.video.close()
        _last.video = open_video(path, limits=limits, motion=motion)
        _last.key = key
    return _last.video
