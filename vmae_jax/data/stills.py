"""A video stored as still pictures, one a frame: files of a folder, or their bytes in a record."""

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from vmae_jax.data.video import BadVideo, Limits, VideoInfo

__all__ = ["PICTURE_FORMATS", "Stills", "open_stills"]

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP")
DEFAULT_RATE = 25.0


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
