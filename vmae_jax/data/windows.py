"""Whole videos as sliding windows, for features: every window of every video, in order."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from vmae_jax.data.decode import probe
from vmae_jax.data.sources import Source
from vmae_jax.data.tf import tensorflow
from vmae_jax.data.transforms import leading, resize
from vmae_jax.data.video import BadVideo, VideoInfo
from vmae_jax.data.workers import Workers, available_cores

__all__ = ["Chunk", "Windows", "chunks", "interpolated"]


@dataclasses.dataclass(frozen=True)
class Windows:
    """A sampler of consecutive windows; the seed's first word is the number of the first of them.

    Windows overlap, so as a sampler it gives each frame of theirs once, as a single view.

    Attributes:
      frames: of a window, `step` apart.
      stride: frames from one window's start to the next's.
      limit: windows a call gives at most.
    """

    frames: int
    step: int
    stride: int
    limit: int

    def count(self, num_frames: int) -> int:
        """Windows that fit into a video, at least one; of a video that is too short, the end is held."""
        return max(num_frames - self.span, 0) // self.stride + 1

    @property
    def span(self) -> int:
        """Frames from a window's first to its last."""
        return (self.frames - 1) * self.step + 1

    def at(self, numbers: np.ndarray, num_frames: int) -> np.ndarray:
        """Frame numbers of windows, int64 [windows frames]."""
        index = np.asarray(numbers)[:, None] * self.stride + np.arange(self.frames) * self.step
        return np.minimum(index, num_frames - 1).astype(np.int64)

    def of_chunk(self, first: int, num_frames: int) -> np.ndarray:
        """Frame numbers of the windows from number `first` on, at most `limit` of them."""
        return self.at(np.arange(first, min(first + self.limit, self.count(num_frames))), num_frames)

    def __call__(self, info: VideoInfo, seed: np.ndarray) -> np.ndarray:
        return np.unique(self.of_chunk(int(seed[0]), info.num_frames))[None]


class Chunk(NamedTuple):
    """Some windows of a video, or the reason why it cannot be read.

    Attributes:
      video: its number in the source.
      first: number of the first window.
      total: windows of the whole video.
      clips: [windows t h w c], uint8, or float32 as `interpolated` gives; None where the video is broken.
      frames: the first and last frame of each window, int64 [windows 2].
      seconds: when these are shown, float64 [windows 2].
      reason: why there are no clips.
    """

    video: int
    first: int
    total: int
    clips: np.ndarray | None
    frames: np.ndarray
    seconds: np.ndarray
    reason: str = ""


def chunks(
    source: Source, videos: Iterable[int], windows: Windows, *, size: int, antialias: bool, channels: int = 3
) -> Iterator[Chunk]:
    """The windows of each video in turn, decoded ahead in worker processes.

    Args:
      source: opened.
      videos: numbers of those to read.
      windows: which; a chunk has `windows.limit` at most.
      size: side of the square that every picture is resized to.
      antialias: resize as `data.transforms` do; False is as `interpolated`.
      channels: 3 (RGB) or 1 (grey).
    """
    cores = available_cores()
    crop = leading([resize(size)]) if antialias else None
    workers = Workers(cores, sampler=windows, crop=crop, channels=channels)
    ahead: collections.deque[Future[Chunk]] = collections.deque()

    def read(video: int, encoded: Any, info: VideoInfo, first: int) -> Chunk:
        index = windows.of_chunk(first, info.num_frames)
        ends = index[:, [0, -1]]
        try:
            [frames] = workers.decode(encoded, np.array([first, 0], np.uint32)).clips
        except BadVideo as error:
            return _broken(video, error)
        pictures = frames if antialias else interpolated(frames, size)
        clips = pictures[np.searchsorted(np.unique(index), index)]
        return Chunk(video, first, windows.count(info.num_frames), clips, ends, np.asarray(info.times)[ends])

    def jobs() -> Iterator[Any]:
        for video in videos:
            try:
                encoded = source.fetch(video)
                info = probe(encoded)
            except BadVideo as error:
                yield lambda video=video, error=error: _broken(video, error)
                continue
            for first in range(0, windows.count(info.num_frames), windows.limit):
                yield lambda job=(video, encoded, info, first): read(*job)

    pool = ThreadPoolExecutor(cores)
    try:
        for job in jobs():
            ahead.append(pool.submit(job))
            if len(ahead) > cores + 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        workers.close()
        pool.shutdown(cancel_futures=True)


def interpolated(frames: np.ndarray, size: int) -> np.ndarray:
    """Every picture as a square, as the official feature script resizes: float32 in 0 … 255.

    Plain bilinear interpolation, without antialiasing and not rounded.
    """
    return tensorflow().image.resize(frames, (size, size), method="bilinear", antialias=False).numpy()


def _broken(video: int, error: Exception) -> Chunk:
    nothing = np.zeros((0, 2))
    return Chunk(video, 0, 0, None, nothing.astype(np.int64), nothing, str(error))
