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
from vmae_jax.data.video import BadVideo, VideoInfo
from vmae_jax.data.workers import Workers, available_cores

__all__ = ["Chunk", "Windows", "chunks", "squared"]


@dataclasses.dataclass(frozen=True)
class Windows:
    """A sampler of consecutive windows; the seed's first word is the number of the first of them.

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

    def __call__(self, info: VideoInfo, seed: np.ndarray) -> np.ndarray:
        first = int(seed[0])
        return self.at(np.arange(first, min(first + self.limit, self.count(info.num_frames))), info.num_frames)


class Chunk(NamedTuple):
    """Some windows of a video, or the reason why it cannot be read.

    Attributes:
      video: its number in the source.
      first: number of the first window.
      total: windows of the whole video.
      clips: [windows t h w c] as `squared` gives them; None where the video is broken.
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


def chunks(source: Source, videos: Iterable[int], windows: Windows, *, size: int, antialias: bool) -> Iterator[Chunk]:
    """The windows of each video in turn, decoded ahead in worker processes.

    Args:
      source: opened.
      videos: numbers of those to read.
      windows: which; a chunk has `windows.limit` at most.
      size: side of the square that every picture is resized to.
      antialias: as `squared`.
    """
    cores = available_cores()
    workers = Workers(cores, sampler=windows)
    ahead: collections.deque[Future[Chunk]] = collections.deque()

    def read(video: int, encoded: Any, info: VideoInfo, first: int) -> Chunk:
        total = windows.count(info.num_frames)
        index = windows.at(np.arange(first, min(first + windows.limit, total)), info.num_frames)
        ends = index[:, [0, -1]]
        try:
            clip = workers.decode(encoded, np.array([first, 0], np.uint32))
        except BadVideo as error:
            return _broken(video, error)
        pictures = squared(clip.frames, size, antialias=antialias)
        return Chunk(video, first, total, pictures[clip.rows], ends, np.asarray(info.times)[ends])

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


def squared(frames: np.ndarray, size: int, *, antialias: bool) -> np.ndarray:
    """Every picture resized to a square, whatever its shape.

    With antialiasing as all our transforms resize, uint8; without it the plain bilinear
    interpolation of the official feature script, which is not rounded: float32 in 0 … 255.
    """
    tf = tensorflow()
    scaled = tf.image.resize(frames, (size, size), method="bilinear", antialias=antialias).numpy()
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8) if antialias else scaled


def _broken(video: int, error: Exception) -> Chunk:
    nothing = np.zeros((0, 2))
    return Chunk(video, 0, 0, None, nothing.astype(np.int64), nothing, str(error))
