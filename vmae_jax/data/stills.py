"""A video stored as still pictures, one a frame: files of a folder, or their bytes in a record."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vmae_jax.data.video import BadVideo, Limits, VideoInfo

__all__ = ["PICTURE_FORMATS", "PICTURE_SUFFIXES", "Stills", "open_stills"]

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
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
        self._frames = frames
        self._limits = limits

    def read(self, indices: Sequence[int], channels: int) -> np.ndarray:
        """The frames `indices`, ascending and distinct, uint8 [t h w c]."""
        shape = (self.info.height, self.info.width, channels)
        out = np.empty((len(indices), *shape), np.uint8)
        for row, index in enumerate(indices):
            with _open_picture(self._frames[index], index, self._limits) as picture:
                if picture.size != (self.info.width, self.info.height):
                    first = f"{self.info.width}x{self.info.height}"
                    raise BadVideo(f"frame {index} is {picture.width}x{picture.height}, the first {first}")
                try:
                    out[row] = np.asarray(picture.convert("RGB" if channels == 3 else "L")).reshape(shape)
                except (OSError, ValueError, SyntaxError) as error:
                    raise BadVideo(f"frame {index} cannot be decoded: {error}") from error
        return out

    def close(self) -> None:
        """Nothing is held open between reads."""


def _open_picture(frame: str | bytes, index: int, limits: Limits) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(frame) if isinstance(frame, bytes) else frame, formats=PICTURE_FORMATS)
    except FileNotFoundError as error:
        raise BadVideo(f"frame {index} is missing: {frame!r}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadVideo(f"frame {index} is no {', '.join(PICTURE_FORMATS)} picture") from error
    if picture.width * picture.height > limits.pixels:
        picture.close()
        raise BadVideo(f"frame {index} has {picture.width}x{picture.height} pixels; the limit is {limits.pixels}")
    return picture
