"""Seconds of a long video, read as a video of their own; nothing is copied or encoded."""

import dataclasses
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from av.video.frame import VideoFrame

from vmae_jax.data.containers import Video, open_video
from vmae_jax.data.vectors import Vectors
from vmae_jax.data.video import BadVideo, Limits

__all__ = ["Moment"]

_ROUNDING = 1e-6  # seconds: time stamps are rounded to the file's time base
_last = threading.local()  # the long video that this thread read last: its packets are counted once


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
