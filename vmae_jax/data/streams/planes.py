"""Pictures that were computed before, one a frame: optical flow, segmentations, depth."""

import dataclasses
import io
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from vmae_jax.data.streams.core import ArraySpec, Clip, ClipShape, FileStream, Recording
from vmae_jax.data.streams.geometry import sampled, source_places
from vmae_jax.data.streams.tables import member, open_archive
from vmae_jax.data.video import BadVideo, Limits
from vmae_jax.registry import register

__all__ = ["Planes", "planes"]

_LIMIT = 1 << 30  # bytes of an archive
_PICTURE = 32 << 20  # bytes of a picture in it
_CENTRE = 128  # of signed values


@register("stream")
def planes(channels: int, interpolation: str = "linear", signed: bool = False, of: str | None = None) -> "Planes":
    """Planes of each frame of a clip, uint8 [frames size size channels], cropped and flipped as its pictures.

    They are read from a zip archive with a PNG of each frame, named by its number ("0.png", "000017.png"), which
    shows the whole picture at any size. NAME_mask, bool [frames], has which frames have one. NAME_valid is False where
    a video has no archive, or none of the clip's frames has a plane.

    Args:
      channels: 1 (a grey PNG) or 2 or 3 (the first ones of a coloured PNG).
      interpolation: "linear", or "nearest" for values that are names of classes.
      signed: values are 128 plus an offset, and the first channel's points to the right: a flip negates it (flow).
      of: what of the things beside a video they are, by name; by default what has the stream's name.
    """
    if channels not in (1, 2, 3) or interpolation not in ("linear", "nearest"):
        raise ValueError(f"channels={channels}, interpolation={interpolation!r}: 1 to 3, and 'linear' or 'nearest'")
    return Planes(channels, interpolation, signed, of)


@dataclasses.dataclass(frozen=True)
class Planes(FileStream):
    """See `planes`."""

    channels: int
    interpolation: str
    signed: bool
    of: str | None = None
    geometric = True
    limit = _LIMIT

    def fields(self, shape: ClipShape) -> Mapping[str, ArraySpec]:
        sides = (shape.frames, shape.size, shape.size, self.channels)
        return {"": ArraySpec(sides, np.uint8), "_mask": ArraySpec((shape.frames,), np.bool_)}

    def parse(
        self, data: bytes, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]
    ) -> Sequence[bool]:
        with open_archive(data) as archive:
            names = {stem.lstrip("0") or "0": name for name in archive.namelist() if (stem := _stem(name))}
            for row, clip in enumerate(clips):
                rows, columns = out[""].shape[2:4]
                y, x = source_places(clip, rows, columns)
                mirrored = clip.view is not None and clip.view.mirrored
                for slot, number in enumerate(recording.side_frames(clip.frames).tolist()):
                    if (name := names.get(str(number))) is not None:
                        out[""][row, slot] = self._shown(self._plane(archive, name), y, x, mirrored)
                        out["_mask"][row, slot] = True
        return np.any(out["_mask"], axis=1)

    def _shown(self, plane: np.ndarray, y: np.ndarray, x: np.ndarray, mirrored: bool) -> np.ndarray:
        shown = sampled(plane, y, x, linear=self.interpolation == "linear")
        if self.signed and mirrored:
            shown[..., 0] = 2 * _CENTRE - shown[..., 0]
        return np.clip(np.rint(shown), 0, 255).astype(np.uint8)

    def _plane(self, archive: zipfile.ZipFile, name: str) -> np.ndarray:
        content = member(archive, name, _PICTURE)
        try:
            with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
                if picture.width * picture.height > Limits().pixels:
                    raise BadVideo(f"holds {name!r}, which has {picture.width}x{picture.height} pixels")
                pixels = np.asarray(picture)
        except BadVideo:
            raise
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadVideo(f"holds {name!r}, which is no PNG picture") from error
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.dtype != np.uint8 or pixels.shape[2] < self.channels:
            raise BadVideo(f"holds {name!r}, which has not {self.channels} channels of 8 bits")
        return pixels[..., : self.channels]


def _stem(name: str) -> str:
    stem = name.removesuffix(".png")
    return stem if stem != name and stem.isdecimal() and stem.isascii() else ""
