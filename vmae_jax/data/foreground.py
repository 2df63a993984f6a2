"""A sampler of clips that often show a labelled moment, for untrimmed videos that are mostly background."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vmae_jax.data.order import generator
from vmae_jax.data.streams.core import Recording
from vmae_jax.data.streams.segments import read_spans
from vmae_jax.data.streams.tables import LIMIT
from vmae_jax.data.video import VideoInfo
from vmae_jax.registry import register

__all__ = ["Foreground", "foreground"]

NO_SPANS = np.zeros((0, 2))


def _tiny(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"frames": min(given["frames"], 8), "stride": 1}


@register("sampler", smoke=_tiny)
def foreground(frames: int = 16, stride: int = 4, share: float = 0.5, of: str = "segments") -> "Foreground":
    """A clip of frames exactly `stride` apart, a share of which shows at least one frame of a labelled moment.

    For these, one of the video's moments is drawn, all with the same probability, and then one of the starts at which
    the clip shows a frame of it. Other clips start anywhere, and so do those of videos without moments. A video that is
    too short for a clip is read from its start, and its last frame is repeated.

    Args:
      frames: of a clip.
      stride: frames of the video from one that is shown to the next.
      share: of the clips that show a moment, at least.
      of: what of the things beside a video has its moments, as for `data.streams.segments`.

    Raises:
      ValueError: if a number is out of range.
    """
    if frames < 1 or stride < 1 or not 0 <= share <= 1:
        raise ValueError(f"frames={frames}, stride={stride}, share={share}: at least 1, at least 1, in [0, 1]")
    return Foreground(frames, stride, share, of)


@dataclasses.dataclass(frozen=True)
class Foreground:
    """See `foreground`."""

    frames: int
    stride: int
    share: float
    of: str
    views: int = 1

    def informed(self, recording: Recording) -> Callable[[VideoInfo, np.ndarray], np.ndarray]:
        """Return the sampler of one video, by the moments beside it.

        Raises:
          BadVideo: if these cannot be read.
        """
        data = recording.side.read(LIMIT) if recording.side else None
        if data is None:
            return self
        spans = read_spans(data)[0] - recording.side_seconds(0.0)
        return functools.partial(self._clip, spans=spans)

    def __call__(self, info: VideoInfo, seed: np.ndarray) -> np.ndarray:
        """Return the frames of a clip of a video without moments."""
        return self._clip(info, seed, NO_SPANS)

    def _clip(self, info: VideoInfo, seed: np.ndarray, spans: np.ndarray) -> np.ndarray:
        room = max(info.num_frames - (self.frames - 1) * self.stride, 1)
        chance, which, place = generator(seed).random(3)
        starts = np.arange(room)
        if chance < self.share:
            showing = [one for one in (self._starts(info, span, room) for span in spans) if len(one)]
            starts = showing[int(which * len(showing))] if showing else starts
        start = starts[int(place * len(starts))]
        shown = start + self.stride * np.arange(self.frames, dtype=np.int64)
        return np.minimum(shown, info.num_frames - 1)[None]

    def _starts(self, info: VideoInfo, span: np.ndarray, room: int) -> np.ndarray:
        """The starts at which a clip shows a frame of a moment."""
        times = np.asarray(info.times, np.float64)
        inside = (span[0] <= times) & (times < span[1])
        found = np.zeros(room, bool)
        for number in range(self.frames):
            part = inside[number * self.stride : number * self.stride + room]
            found[: len(part)] |= part
        return np.flatnonzero(found)
