"""When the frames of a clip are shown, and which frames of the video they are."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vmae_jax.data.streams.core import ArraySpec, Clip, ClipShape, Recording, Stream
from vmae_jax.registry import register

__all__ = ["Frames", "Seconds", "frames", "seconds"]


@register("stream")
def seconds() -> "Seconds":
    """Seconds of the file at which each frame of a clip is shown, float32 [frames]."""
    return Seconds()


@register("stream")
def frames() -> "Frames":
    """Numbers of a clip's frames in the video, from 0, int32 [frames]."""
    return Frames()


@dataclasses.dataclass(frozen=True)
class Seconds(Stream):
    """See `seconds`."""

    def fields(self, shape: ClipShape) -> Mapping[str, ArraySpec]:
        return {"": ArraySpec((shape.frames,), np.float32)}

    def read(self, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]) -> Sequence[bool]:
        for row, clip in enumerate(clips):
            out[""][row] = recording.info.start + clip.seconds
        return [True] * len(clips)


@dataclasses.dataclass(frozen=True)
class Frames(Stream):
    """See `frames`."""

    def fields(self, shape: ClipShape) -> Mapping[str, ArraySpec]:
        return {"": ArraySpec((shape.frames,), np.int32)}

    def read(self, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]) -> Sequence[bool]:
        for row, clip in enumerate(clips):
            out[""][row] = clip.frames
        return [True] * len(clips)
