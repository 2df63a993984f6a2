"""Which frames of a video a clip shows: samplers, in plain NumPy.

A sampler is called with the video's info and the example's seed (two uint32) and gives frame
numbers from 0, int64 [views frames]. It is a frozen value, the same seed gives the same frames,
and it runs in the decoding worker, so it may use NumPy alone.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vmae_jax.data.order import generator
from vmae_jax.data.video import VideoInfo
from vmae_jax.registry import register

__all__ = [
    "Dense",
    "DenseFinetune",
    "Multiview",
    "Pair",
    "Several",
    "Uniform",
    "dense",
    "dense_finetune",
    "dense_frames",
    "dense_start",
    "multiview",
    "pair",
    "several",
    "uniform",
]


_ROUNDING = 1e-6  # of places in a video, in frames or seconds


def _tiny(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for `smoke`; images stay clips of one frame."""
    return {"frames": min(given["frames"], 8), "stride": 1}


@register("sampler", smoke=_tiny)
def dense(frames: int = 16, stride: int = 4) -> "Dense":
    """Pre-training: `frames` frames, exactly `stride` apart, from a random start.

    As the official `VideoMAE._sample_train_indices` and `get_frame_id_list`: a video too short
    for the clip is read from its start, and its last reachable frame is repeated.
    """
    return Dense(_positive("frames", frames), _positive("stride", stride))


@register("sampler", smoke=lambda given: {**_tiny(given), "rate": None})
def dense_finetune(frames: int = 16, stride: int = 4, random: bool = True, rate: int | None = None) -> "DenseFinetune":
    """Fine-tuning, and V-JEPA: a window of `frames * stride` frames, `frames` of them evenly spaced.

    The official loaders space the frames by linspace over the window, so they are
    stride + stride/(frames - 1) apart, rounded down (4.27 for 16x4): not exactly `stride`.

    Args:
      frames: of a clip.
      stride: frames of the video for each of the clip.
      random: whether the window is anywhere; otherwise it is the middle one (the official validation).
      rate: frames a second, in place of the stride, which is then ceil(rate of the video) // rate (V-JEPA 2: 4).
    """
    checked = None if rate is None else _positive("rate", rate)
    return DenseFinetune(_positive("frames", frames), _positive("stride", stride), random, rate=checked)


@register("sampler", smoke={"frames": 8})
def uniform(frames: int = 16, random: bool = True) -> "Uniform":
    """Something-Something: the video in `frames` equal parts, one frame of each.

    `random=False` takes the middle of each part, the earlier of two, as the official validation does
    (VideoMAE V2's for video files; its loader of picture files takes the later of two). A video of fewer
    than `frames` frames repeats its first frame and then shows each once.
    """
    return Uniform(_positive("frames", frames), random)


@register("sampler", smoke=_tiny)
def multiview(frames: int = 16, stride: int = 4, views: int = 5, sparse: bool = False) -> "Multiview":
    """Testing: `views` clips of the video, spread evenly (dense) or interleaved (`sparse`)."""
    return Multiview(_positive("frames", frames), _positive("stride", stride), _positive("views", views), sparse)


def _tiny_pair(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a pair for `smoke`; pairs of images stay clips of one frame, and speeds keep their ratio."""
    least = min(given["strides"])
    strides, gap = [one // least for one in given["strides"]], [min(bound, 8) for bound in given["gap"]]
    return {"frames": min(given["frames"], 8), "strides": strides, "gap": gap}


@register("sampler", smoke=_tiny_pair)
def pair(
    frames: int = 1, strides: Sequence[int] = (1, 1), gap: Sequence[float] = (4, 47), unit: str = "frames"
) -> "Pair":
    """Two clips of a video, as two views: consecutive rows of a batch (a method's `group` of 2).

    A clip of one frame makes pairs of frames (SiamMAE); different strides show one video at two speeds; a gap of
    (0, 0) starts both clips at the same frame. The crop that both share is `data.crops.together`, a crop
    within the other's `data.crops.nested`.

    Args:
      frames: of each clip.
      strides: frames from one that is shown to the next, of the first and of the second clip.
      gap: (least, most) from the start of the first clip to the start of the second, drawn uniformly. Where a video is
        too short, each bound is the largest gap that fits, which of a video of one frame is 0.
      unit: of the gap, "frames" or "seconds".
    """
    if unit not in ("frames", "seconds"):
        raise ValueError(f"unit={unit!r}: it must be 'frames' or 'seconds'")
    if len(strides) != 2 or len(gap) != 2 or not 0 <= gap[0] <= gap[1]:
        raise ValueError(f"strides={list(strides)}, gap={list(gap)}: two strides, and a gap of (least, most) from 0 on")
    steps = (_positive("strides", strides[0]), _positive("strides", strides[1]))
    return Pair(_positive("frames", frames), steps, (float(gap[0]), float(gap[1])), unit)


@register("sampler", smoke=_tiny)
def several(frames: int = 16, stride: int = 4, views: int = 2) -> "Several":
    """Clips of a video as its views, which start independently of each other: consecutive rows of a batch.

    Args:
      frames: of each clip, exactly `stride` apart.
      stride: frames from one that is shown to the next.
      views: the number of clips.
    """
    return Several(_positive("frames", frames), _positive("stride", stride), _positive("views", views))


@register("sampler", smoke=_tiny)
def whole_and_parts(frames: int = 16, stride: int = 2, parts: int = 2) -> "WholeAndParts":
    """A clip of the whole video and clips of parts of it, as its views: consecutive rows of a batch, the whole first.

    Args:
      frames: of each clip. Those of the first are evenly spread over the video, in the middle of equal pieces.
      stride: frames from one that is shown to the next, of the other clips, which start independently of each other.
      parts: the number of these.
    """
    return WholeAndParts(_positive("frames", frames), _positive("stride", stride), _positive("parts", parts))


@dataclasses.dataclass(frozen=True)
class Dense:
    """See `dense`."""

    frames: int
    stride: int
    views: int = 1

    def __call__(self, info: VideoInfo, seed: np.ndarray) -> np.ndarray:
        start = dense_start(info.num_frames, self.frames, self.stride, seed)
        return dense_frames(info.num_frames, self.frames, self.stride, start)[None]


@dataclasses.dataclass(frozen=True)
class DenseFinetune:
    """See `dense_finetune`."""

    frames: int
    stride: int
    random: bool
    views: int = 1
    rate: int | None = None

    def __call__(self, info: VideoInfo, seed: np.ndarray) -> np.ndarray:
        stride = self.stride if self.rate is None else max(math.ceil(info.rate - _ROUNDING) // self.rate, 1)
        total, window = info.num_frames, self.frames * stride
        if total <= window:
            spread = np.linspace(0, total, num=total // stride)
            index = np.concatenate([spread, np.full(self.frames - len(spread), total)])
            return np.clip(index, 0, total - 1).astype(np.int64)[None]
        # The official draw, randint(window, total), never ends at the last frame.
        end = int(generator(seed).integers(window, total)) if self.random else (window + total) // 2
        index = np.linspace(end - window, end, num=self.frames)
        return np.clip(index, end - window, end - 1).astype(np.int64)[None]


@dataclasses.dataclass(frozen=True)
class Uniform:
    """See `uniform`."""

    frames: int
    random: bool
    views: int = 1

    def __call__(self, info: VideoInfo, seed: np.ndarray) -> np.ndarray:
        part = info.num_frames // self.frames
        slots = np.arange(self.frames, dtype=np.int64)
        if part == 0:
            return np.maximum(slots - (self.frames - info.num_frames), 0)[None]
        offset = generator(seed).integers(part, size=self.frames) if self.random else (part - 1) // 2
        return (slots * part + offset)[None]


@dataclasses.dataclass(frozen=True)
class Multiview:
    """See `multiview`."""

    frames: int
    stride: int
    views: int
    sparse: bool

    def __call__(self, info: VideoInfo, seed: np.ndarray) -> np.ndarray:
        del seed  # nothing here is random
        if self.sparse:
            tick = info.num_frames / self.frames
            view, part = np.arange(self.views)[:, None], np.arange(self.frames)[None]
            return (view * tick / self.views + tick * part).astype(np.int64)
        loaded = np.arange(0, info.num_frames, self.stride, dtype=np.int64)
        loaded = np.pad(loaded, (0, max(self.frames - len(loaded), 0)), mode="edge")
        step = max(len(loaded) - self.frames, 0) / max(self.views - 1, 1)
        starts = (np.arange(self.views) * step).astype(np.int64)
        return loaded[starts[:, None] + np.arange(self.frames)]


@dataclasses.dataclass(frozen=True)
class Several:
    """See `several`."""

    frames: int
    stride: int
    views: int

    def __call__(self, info: VideoInfo, seed: np.ndarray) -> np.ndarray:
        room = max(info.num_frames - (self.frames - 1) * self.stride, 1)
        starts = generator(seed).integers(room, size=self.views)
        shown = starts[:, None] + self.stride * np.arange(self.frames)
        return np.minimum(shown, info.num_frames - 1).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class WholeAndParts:
    """See `whole_and_parts`."""

    frames: int
    stride: int
    parts: int

    @property
    def views(self) -> int:
        """The number of clips."""
        return 1 + self.parts

    def __call__(self, info: VideoInfo, seed: np.ndarray) -> np.ndarray:
        whole = (2 * np.arange(self.frames, dtype=np.int64) + 1) * info.num_frames // (2 * self.frames)
        return np.concatenate([whole[None], Several(self.frames, self.stride, self.parts)(info, seed)])


@dataclasses.dataclass(frozen=True)
class Pair:
    """See `pair`."""

    frames: int
    strides: tuple[int, int]
    gap: tuple[float, float]
    unit: str
    views: int = 2

    def __call__(self, info: VideoInfo, seed: np.ndarray) -> np.ndarray:
        draw, total = generator(seed), info.num_frames
        places = np.arange(total, dtype=np.float64) if self.unit == "frames" else np.asarray(info.times, np.float64)
        spans = [(self.frames - 1) * stride + 1 for stride in self.strides]
        latest = max(total - spans[1], 0)  # start of the second clip
        whole = self.unit == "frames" and all(bound == int(bound) for bound in self.gap)
        least, most = (min(bound, float(places[latest] - places[0])) for bound in self.gap)
        gap = float(draw.integers(int(least), int(most) + 1)) if whole else float(draw.uniform(least, most))
        fits = np.arange(total)[(places + gap <= places[latest] + _ROUNDING) & (np.arange(total) <= total - spans[0])]
        first = int(fits[draw.integers(len(fits))]) if len(fits) else 0
        second = int(np.searchsorted(places, places[first] + gap - _ROUNDING))
        starts = np.array([[first], [second]])
        return np.minimum(starts + np.arange(self.frames) * np.array(self.strides)[:, None], total - 1).astype(np.int64)


def dense_start(num_frames: int, frames: int, stride: int, seed: np.ndarray) -> int:
    """Where the pre-training clip starts: anywhere it fits, or 0."""
    room = num_frames - frames * stride + 1
    return int(generator(seed).integers(room)) if room > 0 else 0


def dense_frames(num_frames: int, frames: int, stride: int, start: int) -> np.ndarray:
    """The frame numbers of a pre-training clip, int64 [frames].

    The official loop moves on only while the next position is still before the last frame.
    """
    position = start + 1  # the official code counts from 1
    index = np.empty(frames, np.int64)
    for slot in range(frames):
        index[slot] = position - 1
        if position + stride < num_frames:
            position += stride
    return index


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
    return value
