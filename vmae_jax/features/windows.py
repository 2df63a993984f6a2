"""The sliding windows of whole videos, in order, for features."""

import collections
import dataclasses
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from vmae_jax.data.crops import leading
from vmae_jax.data.decode import Wanted
from vmae_jax.data.source import Source
from vmae_jax.data.streams.core import NONE, ArraySpec, Clip, ClipShape, Recording, Stream, Streams
from vmae_jax.data.tf import tensorflow
from vmae_jax.data.transforms import resize
from vmae_jax.data.video import BadVideo, Encoded, VideoInfo
from vmae_jax.data.workers import Workers, available_cores

__all__ = ["Chunk", "Windows", "chunks", "interpolated"]

T = TypeVar("T")
MOST = 10**8  # windows of a video: years of it
_ROUNDING = 1e-3  # seconds: Matroska rounds its time stamps to milliseconds


@dataclasses.dataclass(frozen=True)
class Windows:
    """A sampler of consecutive windows; the first word of the seed is the number of the first window.

    Windows may overlap, so the sampler returns each of their frames once, as a single view.

    Attributes:
      frames: of a window, `step` apart.
      step: in samples of the video: its frames, or with `fps` the frames shown at 0, 1/fps, 2/fps, … seconds.
      stride: samples from one window's start to the next's.
      limit: maximum number of windows per call.
      fps: samples per second; None samples every frame at any rate.
      tail: "end" adds a window that ends with the video if samples are left after the last whole window;
        "drop" leaves them out.
    """

    frames: int
    step: int
    stride: int
    limit: int
    fps: float | None = None
    tail: str = "drop"

    @property
    def span(self) -> int:
        """Samples from the first to the last of a window."""
        return (self.frames - 1) * self.step + 1

    def shown(self, info: VideoInfo) -> np.ndarray:
        """Return the frame number of every sample, int64 [samples]."""
        if self.fps is None:
            return np.arange(info.num_frames)
        end = float(info.times[-1]) + (1 / info.rate if info.rate > 0 else 0.0)
        samples = max(math.ceil(end * self.fps - _ROUNDING), 1)
        moments = np.arange(samples) / self.fps
        return np.maximum(np.searchsorted(info.times, moments + _ROUNDING, side="right") - 1, 0)

    def starts(self, samples: int) -> np.ndarray:
        """Return the first sample of each window, at least one; a video that is too short repeats its last frame."""
        starts = np.arange(max(samples - self.span, 0) // self.stride + 1) * self.stride
        covered = starts[-1] + self.frames * self.step
        return np.append(starts, samples - self.span) if self.tail == "end" and covered < samples else starts

    def uncovered(self, info: VideoInfo) -> int:
        """Return the number of frames after the last window."""
        shown = self.shown(info)
        covered = self.starts(len(shown))[-1] + self.frames * self.step
        return 0 if covered >= len(shown) else info.num_frames - int(shown[covered])

    def of_chunk(self, first: int, info: VideoInfo) -> tuple[np.ndarray, np.ndarray]:
        """Return frames and seconds of at most `limit` windows, from number `first` on.

        Frames are int64 [windows frames]; seconds are the times of the first and last sample, float64 [windows 2].
        """
        shown = self.shown(info)
        starts = self.starts(len(shown))[first : first + self.limit]
        samples = np.minimum(starts[:, None] + np.arange(self.frames) * self.step, len(shown) - 1)
        frames, ends = shown[samples].astype(np.int64), samples[:, [0, -1]]
        return frames, ends / self.fps if self.fps else np.asarray(info.times)[ends]

    def __call__(self, info: VideoInfo, seed: np.ndarray) -> np.ndarray:
        return np.unique(self.of_chunk(int(seed[0]), info)[0])[None]


class Chunk(NamedTuple):
    """Some windows of a video, or the reason why it cannot be read.

    Attributes:
      video: its number in the source.
      first: number of the first window.
      total: windows of the whole video.
      clips: [windows t h w c], uint8, or float32 from `interpolated`; None if the video is broken.
      frames: the first and last frame of each window, int64 [windows 2].
      seconds: begin and end of each window, float64 [windows 2].
      uncovered: frames of the video after its last window.
      reason: why there are no clips.
    """

    video: int
    first: int
    total: int
    clips: np.ndarray | None
    frames: np.ndarray
    seconds: np.ndarray
    uncovered: int = 0
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class _Places(Stream):
    """The positions of the windows of a chunk, computed in the decoding process, which alone opens the video.

    A row has the frames and seconds of `Windows.of_chunk`, and three counts: windows of the chunk, windows of the
    whole video, and frames after the last window.
    """

    windows: Windows

    def fields(self, shape: ClipShape) -> Mapping[str, ArraySpec]:
        limit = self.windows.limit
        frames, seconds = ArraySpec((limit, self.windows.frames), np.int64), ArraySpec((limit, 2), np.float64)
        return {"_frames": frames, "_seconds": seconds, "_counts": ArraySpec((3,), np.int64)}

    def read(self, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]) -> Sequence[bool]:
        info = recording.info
        total, uncovered = len(self.windows.starts(len(self.windows.shown(info)))), self.windows.uncovered(info)
        for row, clip in enumerate(clips):
            index, seconds = self.windows.of_chunk(clip.seed[0], info)
            out["_frames"][row, : len(index)], out["_seconds"][row, : len(index)] = index, seconds
            out["_counts"][row] = len(index), total, uncovered
        return [True] * len(clips)


def chunks(
    source: Source, videos: Iterable[int], windows: Windows, *, size: int, antialias: bool, channels: int = 3
) -> Generator[Chunk]:
    """Yield the windows of each video in turn, decoded ahead in worker processes.

    Args:
      source: opened.
      videos: their numbers.
      windows: the windows; a chunk has at most `windows.limit`.
      size: side of the square to which every picture is resized.
      antialias: resize as `data.transforms`; False resizes as `interpolated`.
      channels: 3 (RGB) or 1 (grey).
    """
    cores = available_cores()
    crop = leading([resize(size)]) if antialias else None
    streams = Streams({"windows": _Places(windows)}, NONE.shape)
    workers = Workers(cores, sampler=windows, crop=crop, channels=channels, streams=streams)

    def read(video: int, encoded: Encoded | BadVideo, first: int) -> Chunk:
        try:
            if isinstance(encoded, BadVideo):
                raise encoded
            seed = (first, 0)
            arrays = workers.decode(encoded, np.array(seed, np.uint32), [Wanted(0, 0, seed)]).arrays
            return _chunk(video, first, arrays, windows.limit, None if antialias else size)
        except BadVideo as error:
            return _broken(video, error)

    pool = ThreadPoolExecutor(cores)
    try:
        first_chunks = (
            (video, encoded, pool.submit(read, video, encoded, 0)) for video, encoded in _fetched(source, videos)
        )
        for video, encoded, future in _ahead(first_chunks, cores):
            chunk = future.result()
            yield chunk
            others = range(windows.limit, chunk.total, windows.limit)
            for other in _ahead((pool.submit(read, video, encoded, first) for first in others), cores):
                yield other.result()
    finally:
        workers.close()
        pool.shutdown(cancel_futures=True)


def _fetched(source: Source, videos: Iterable[int]) -> Iterator[tuple[int, Encoded | BadVideo]]:
    """Yield the number and the stored form of each video, or the reason why it cannot be read."""
    for video in videos:
        try:
            yield video, source.fetch(video)
        except BadVideo as error:
            yield video, error


def _ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """Yield the items in order, each only after the `count` that follow it were made."""
    made: collections.deque[T] = collections.deque()
    for item in items:
        made.append(item)
        if len(made) > count:
            yield made.popleft()
    yield from made


def _chunk(video: int, first: int, arrays: Mapping[str, np.ndarray], limit: int, size: int | None) -> Chunk:
    """Return a chunk from what a worker read; the pictures are resized here unless `size` is None.

    Raises:
      BadVideo: if a worker, taken over by a crafted file, returns impossible counts.
    """
    [frames], [counts] = arrays["video"], arrays["windows_counts"]
    here, total, uncovered = map(int, counts)
    index, seconds = arrays["windows_frames"][0, :here], arrays["windows_seconds"][0, :here]
    rows = np.searchsorted(np.unique(index), index)
    if not (0 < here <= limit and first + here <= total <= MOST) or rows.max() >= len(frames):
        raise BadVideo("makes its decoder return impossible windows")
    pictures = frames if size is None else interpolated(frames, size)
    return Chunk(video, first, total, pictures[rows], index[:, [0, -1]].copy(), seconds.copy(), uncovered)


def interpolated(frames: np.ndarray, size: int) -> np.ndarray:
    """Return every picture as a square, resized as by the official feature script: float32 in 0 … 255.

    The interpolation is bilinear, without antialiasing or rounding.
    """
    return tensorflow().image.resize(frames, (size, size), method="bilinear", antialias=False).numpy()


def _broken(video: int, error: Exception) -> Chunk:
    nothing = np.zeros((0, 2))
    return Chunk(video, 0, 0, None, nothing.astype(np.int64), nothing, reason=str(error))
