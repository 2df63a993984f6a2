"""Reads chosen frames of a video, or of a folder of pictures. No TensorFlow, no JAX.

The one place that opens files which come from strangers. `containers` reads video files with
PyAV, `stills` lists of pictures with Pillow; both give the same `VideoInfo` and frames.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from vmae_jax.data.containers import open_video
from vmae_jax.data.stills import open_stills
from vmae_jax.data.video import BadVideo, Encoded, Limits, VideoInfo

__all__ = ["LIMITS", "BadVideo", "Encoded", "Limits", "Sampler", "VideoInfo", "probe", "read_clip", "read_frames"]

LIMITS = Limits()
Sampler = Callable[[VideoInfo, np.ndarray], np.ndarray]


class _Reader(Protocol):
    info: VideoInfo

    def read(self, indices: Sequence[int], channels: int) -> np.ndarray: ...
    def close(self) -> None: ...


def probe(encoded: Encoded, *, limits: Limits = LIMITS) -> VideoInfo:
    """What the video holds, from its packets; no frame is decoded.

    Raises:
      BadVideo: it cannot be opened, is of a kind that is not allowed, or is beyond the limits.
    """
    reader = _open(encoded, limits)
    try:
        return reader.info
    finally:
        reader.close()


def read_frames(encoded: Encoded, indices: Sequence[int], *, channels: int = 3, limits: Limits = LIMITS) -> np.ndarray:
    """The frames `indices` (any order, repeats allowed), uint8 [t h w c].

    Raises:
      BadVideo: as `probe`, or a frame cannot be decoded.
      ValueError: an index outside the video.
    """
    reader = _open(encoded, limits)
    try:
        unique, inverse = _unique(indices, reader.info)
        return reader.read(unique, channels)[inverse]
    finally:
        reader.close()


def read_clip(
    encoded: Encoded, sampler: Sampler, seed: np.ndarray, *, channels: int = 3, limits: Limits = LIMITS
) -> tuple[np.ndarray, np.ndarray, VideoInfo]:
    """Opens once, asks `sampler` which frames, and decodes each of those once.

    Returns:
      frames uint8 [u h w c], the distinct frames in order; the row of `frames` that each view
      shows at each time, int32 [views frames]; and the video's info.
    """
    reader = _open(encoded, limits)
    try:
        indices = np.asarray(sampler(reader.info, seed))
        unique, inverse = _unique(indices.ravel(), reader.info)
        frames = reader.read(unique, channels)
        return frames, inverse.reshape(indices.shape).astype(np.int32), reader.info
    finally:
        reader.close()


def _open(encoded: Encoded, limits: Limits) -> _Reader:
    if encoded.frames is not None:
        return open_stills(encoded.frames, rate=encoded.rate, limits=limits)
    source = encoded.data if encoded.data is not None else encoded.path
    assert source is not None
    return open_video(source, limits=limits)


def _unique(indices: Sequence[int] | np.ndarray, info: VideoInfo) -> tuple[list[int], np.ndarray]:
    unique, inverse = np.unique(np.asarray(indices, np.int64), return_inverse=True)
    if len(unique) == 0 or unique[0] < 0 or unique[-1] >= info.num_frames:
        raise ValueError(
            f"frames {unique[:1].tolist()}..{unique[-1:].tolist()} were asked of a video of {info.num_frames}"
        )
    return unique.tolist(), inverse
