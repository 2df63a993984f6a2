"""Where in its video a clip is: the part of the picture that it shows, and the time of its frames."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vmae_jax.data.streams.core import ArraySpec, Clip, ClipShape, Recording, Stream
from vmae_jax.data.streams.geometry import source_corners
from vmae_jax.registry import register

__all__ = ["Place", "place"]


@register("stream")
def place() -> "Place":
    """The part of the picture that a clip shows, float32 [4], as shares of the picture's sides.

    They are x at its left edge, y at its upper edge, x at its right edge and y at its lower edge: in a mirrored clip,
    the first is larger than the third. NAME_times, float32 [frames 2], are the seconds of the file at which each frame
    begins and ends, the latter being the next frame's begin.
    """
    return Place()


@dataclasses.dataclass(frozen=True)
class Place(Stream):
    """See `place`."""

    geometric = True

    def fields(self, shape: ClipShape) -> Mapping[str, ArraySpec]:
        return {"": ArraySpec((4,), np.float32), "_times": ArraySpec((shape.frames, 2), np.float32)}

    def read(self, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]) -> Sequence[bool]:
        for row, clip in enumerate(clips):
            out[""][row] = source_corners(clip)
            ends = np.append(clip.seconds[1:], clip.span[1])
            out["_times"][row] = recording.info.start + np.stack([clip.seconds, ends], axis=1)
        return [True] * len(clips)
