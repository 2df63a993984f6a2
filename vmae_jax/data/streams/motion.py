"""The codec's motion vectors: how blocks of pixels move, at hardly more than the cost of decoding."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vmae_jax.data.display import BLOCK, Vectors
from vmae_jax.data.streams.core import ArraySpec, Clip, ClipShape, Recording, Stream
from vmae_jax.data.streams.geometry import sampled, scale_of, source_places, view_of
from vmae_jax.registry import register

__all__ = ["Motion", "motion"]


@register("stream")
def motion(cell: int = 8) -> "Motion":
    """Motion of each frame of a clip, float32 [frames size/cell size/cell 2]: pixels of the clip to the right and down.

    A vector is the displacement between a frame and the one that the codec predicts it from, which may be several
    frames away. It is cropped, scaled and flipped as the pictures are. NAME_mask, bool [frames], has which frames have
    vectors: key frames have none. NAME_valid is False where no frame of the clip has: codecs that export them are
    H.264, MPEG-4 Part 2, MPEG-1 and MPEG-2.

    Args:
      cell: side of the squares of the clip that one vector stands for (the vector at its centre); the size of the
        clip is a multiple of it.
    """
    if cell < 1:
        raise ValueError(f"cell={cell}: it must be at least 1")
    return Motion(cell)


@dataclasses.dataclass(frozen=True)
class Motion(Stream):
    """See `motion`."""

    cell: int
    geometric = True
    needs_motion = True

    def fields(self, shape: ClipShape) -> Mapping[str, ArraySpec]:
        side, rest = divmod(shape.size, self.cell)
        if rest:
            raise ValueError(f"cell={self.cell} does not divide the clip's size {shape.size}")
        return {"": ArraySpec((shape.frames, side, side, 2), np.float32), "_mask": ArraySpec((shape.frames,), np.bool_)}

    def read(self, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]) -> Sequence[bool]:
        for row, clip in enumerate(clips):
            y, x = source_places(clip, *out[""].shape[2:4])
            for slot, number in enumerate(clip.frames.tolist()):
                vectors = recording.motion(number)
                if vectors is not None:
                    out[""][row, slot] = _shown(vectors, clip, y, x)
                    out["_mask"][row, slot] = True
        return np.any(out["_mask"], axis=1)


def _shown(vectors: Vectors, clip: Clip, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The vectors at places of the upright picture (shares of its sides), in pixels of the clip."""
    view = view_of(clip)
    tall, wide = vectors.upright.shape[:2]
    shares = sampled(
        vectors.upright, y * vectors.rows / (tall * BLOCK), x * vectors.columns / (wide * BLOCK), linear=False
    )
    across, down = scale_of(view)
    shown = shares * (clip.picture[1] * across, clip.picture[0] * down)
    if view.mirrored:
        shown[..., 0] *= -1
    return shown
