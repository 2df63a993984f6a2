"""Consecutive frames of a video and frames of its future, as one clip."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vmae_jax.data.order import generator
from vmae_jax.data.video import VideoInfo
from vmae_jax.registry import register

__all__ = ["Future", "future"]


def _tiny(given: Mapping[str, Any]) -> dict[str, Any]:
    """Two sources and two targets, which a short video has."""
    return {"sources": min(given["sources"], 2), "targets": min(given["targets"], 2), "gap": [1, 4]}


@register("sampler", smoke=_tiny)
def future(sources: int = 4, targets: int = 4, gap: Sequence[int] = (4, 48), stride: int = 1) -> "Future":
    """Clips of `sources` frames in order, followed by `targets` frames of their future in the order of their draw.

    The stream `data.streams.times.frames` has the distances between them.

    Args:
      sources: frames in order, `stride` apart, from a random start.
      targets: later frames, each drawn independently.
      gap: (least, most) frames from the last source to a target, uniform. In a video that is too short, each bound is
        the largest distance that fits.
      stride: frames from one source to the next.

    Raises:
      ValueError: if a number is out of range.
    """
    if min(sources, targets, stride) < 1:
        raise ValueError(f"sources={sources}, targets={targets}, stride={stride}: each at least 1")
    if len(gap) != 2 or not 0 <= gap[0] <= gap[1]:
        raise ValueError(f"gap={list(gap)}: (least, most) from 0 on")
    return Future(sources, targets, (int(gap[0]), int(gap[1])), stride)


@dataclasses.dataclass(frozen=True)
class Future:
    """See `future`."""

    sources: int
    targets: int
    gap: tuple[int, int]
    stride: int
    views: int = 1

    @property
    def frames(self) -> int:
        """The frames of a clip."""
        return self.sources + self.targets

    def __call__(self, info: VideoInfo, seed: np.ndarray) -> np.ndarray:
        draw, end = generator(seed), info.num_frames - 1
        span = (self.sources - 1) * self.stride
        start = int(draw.integers(max(end - span - self.gap[1], 0) + 1))
        shown = np.minimum(start + self.stride * np.arange(self.sources), end)
        least, most = (min(bound, end - int(shown[-1])) for bound in self.gap)
        later = shown[-1] + draw.integers(least, most + 1, size=self.targets)
        return np.concatenate([shown, later]).astype(np.int64)[None]
