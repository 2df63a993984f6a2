"""Reads chosen frames of a video, or of a folder of pictures. No TensorFlow, no JAX.

The one place that opens files which come from strangers. `containers` reads video files with
PyAV, `readers` lists of pictures with Pillow; both give the same `VideoInfo` and frames.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from av.video.frame import VideoFrame

from vmae_jax.data.containers import open_video
from vmae_jax.data.display import Vectors
from vmae_jax.data.readers import Moment, open_stills
from vmae_jax.data.scaling import Scaler, View, planes
from vmae_jax.data.streams.core import NONE, ArraySpec, Clip, Recording, Streams, clip_of, side_of
from vmae_jax.data.video import Encoded, Limits, VideoInfo

__all__ = [
    "Read",
    "Reader",
    "Sampler",
    "Wanted",
    "open_encoded",
    "probe",
    "read_clips",
    "read_frames",
]

LIMITS = Limits()
Sampler = Callable[[VideoInfo, np.ndarray], np.ndarray]


def _fresh(specs: Mapping[str, ArraySpec]) -> dict[str, np.ndarray]:
    return {name: np.empty(spec.shape, spec.dtype) for name, spec in specs.items()}


class Reader(Protocol):
    """An open video, or an open list of pictures.

    Attributes:
      info: what it holds.
      stamps: when each frame is shown, in units of `time_base` seconds.
      time_base: exactly.
    """

    info: VideoInfo
    stamps: Sequence[int]
    time_base: Fraction

    def pictures(self, indices: Sequence[int], channels: int) -> Iterator[np.ndarray]: ...
    def frames(self) -> Iterator[tuple[int, VideoFrame]]: ...
    def motion(self, index: int) -> Vectors | None: ...
    def close(self) -> None: ...


def probe(encoded: Encoded, *, limits: Limits = LIMITS) -> VideoInfo:
    """What the video holds, from its packets; no frame is decoded.

    Raises:
      BadVideo: it cannot be opened, is of a kind that is not allowed, or is beyond the limits.
    """
    reader = open_encoded(encoded, limits)
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
    reader = open_encoded(encoded, limits)
    try:
        unique, inverse = _unique(indices, reader.info)
        return np.stack(list(reader.pictures(unique, channels)))[inverse]
    finally:
        reader.close()


class Wanted(NamedTuple):
    """A clip of a video.

    Attributes:
      view: which of the sampler's views.
      repeat: its number among the repeats.
      seed: of what is random in it.
      base: seed of the first view of the same repeat, for what its views share; by default `seed`.
    """

    view: int
    repeat: int
    seed: tuple[int, int]
    base: tuple[int, int] | None = None


class Read(NamedTuple):
    """What `read_clips` read.

    Attributes:
      arrays: "video", uint8 [clips t h w c], and those of the streams, each [clips …].
      info: of the video.
      cropping: seconds of processor time that cropping and scaling took.
    """

    arrays: dict[str, np.ndarray]
    info: VideoInfo
    cropping: float


def read_clips(
    encoded: Encoded,
    sampler: Sampler,
    seed: np.ndarray,
    wanted: Sequence[Wanted] | None = None,
    *,
    crop: Any = None,
    channels: int = 3,
    streams: Streams = NONE,
    limits: Limits = LIMITS,
    allocate: Callable[[Mapping[str, ArraySpec]], dict[str, np.ndarray]] = _fresh,
) -> Read:
    """Open a video once, let `sampler` choose frames, decode each once, and read the streams of each clip.

    Args:
      seed: of the sampler.
      wanted: the clips; by default each view once.
      crop: of `crops.leading`; by default whole frames.
      streams: what is read beside the pictures.
      allocate: shapes and dtypes -> the arrays that are filled.

    Raises:
      BadVideo: as `read_frames`, or if a stream is there but cannot be read.
    """
    if encoded.stride is not None:
        sampler = dataclasses.replace(cast(Any, sampler), stride=encoded.stride)
    reader = open_encoded(encoded, limits, motion=streams.needs_motion)
    try:
        informed = getattr(sampler, "informed", None)  # of samplers that look at what is beside a video
        if informed is not None:
            side = side_of(encoded, cast(Any, sampler).of)
            sampler = informed(Recording(encoded, reader.info, side))
        indices = np.asarray(sampler(reader.info, seed))
        clips = [Wanted(view, 0, (0, 0)) for view in range(len(indices))] if wanted is None else wanted
        arrays, cut, cropping = _show(reader, indices, clips, crop, channels, streams, allocate)
        if streams.streams:
            streams.read(encoded, reader.info, cut, arrays, reader.motion)
        return Read(arrays, reader.info, cropping)
    finally:
        reader.close()


def _show(
    reader: Reader,
    indices: np.ndarray,
    clips: Sequence[Wanted],
    crop: Any,
    channels: int,
    streams: Streams,
    allocate: Any,
) -> tuple[dict[str, np.ndarray], list[Clip], float]:
    """Return the arrays, filled with the pictures alone, each clip as streams see it, and the seconds of cropping."""
    unique, inverse = _unique(indices.ravel(), reader.info)
    shown = inverse.reshape(indices.shape)[[clip.view for clip in clips]]  # [clips t] -> row of `unique`
    pictures = reader.pictures(unique, channels)
    first = next(pictures)
    size = first.shape[:2]
    views = [crop(*size, clip) if crop else None for clip in clips]
    sides = views[0].shape if views[0] else size
    specs = {name: ArraySpec((len(clips), *spec.shape), spec.dtype) for name, spec in streams.specs().items()}
    arrays = allocate({"video": ArraySpec((*shown.shape, *sides, channels), np.uint8), **specs})
    painters = [crop.painters(clip) if crop else ([], []) for clip in clips]
    cropping = _fill(itertools.chain([first], pictures), shown, views, painters, arrays["video"])
    pairs = zip(clips, views, strict=True)
    return arrays, [clip_of(reader.info, indices[one.view], size, view, one.seed) for one, view in pairs], cropping


def _fill(
    pictures: Iterator[np.ndarray], shown: np.ndarray, views: Sequence[View | None], painters: Any, out: np.ndarray
) -> float:
    """Put each picture into its places; clips that see the same part of it share the work. Return the seconds spent."""
    scaler, cropping = Scaler(), 0.0
    cropped = any(view is not None for view in views)
    for row, picture in enumerate(pictures):
        began = time.process_time()
        colours = planes(picture) if cropped else picture
        done: dict[View | None, np.ndarray] = {None: picture}
        for clip, at in zip(*np.nonzero(shown == row), strict=True):
            view, place, (before, after) = views[clip], out[clip, at], painters[clip]
            if before:
                scaler(planes(_painted(picture, before)), view, place)
            elif view is None or view in done:
                place[:] = done[view]
            else:
                scaler(colours, view, place)
                done[view] = place.copy() if after else place
            if after:
                place[:] = _painted(place, after)
        cropping += time.process_time() - began
    return cropping


def _painted(picture: np.ndarray, painters: Sequence[Callable[[np.ndarray], np.ndarray]]) -> np.ndarray:
    for paint in painters:
        picture = paint(picture)
    return picture


def open_encoded(encoded: Encoded, limits: Limits = LIMITS, *, motion: bool = False) -> Reader:
    """Open an example for reading; the caller closes it.

    Args:
      motion: whether the decoder exports motion vectors.

    Raises:
      BadVideo: as `probe`.
    """
    if encoded.frames is not None:
        return open_stills(encoded.frames, rate=encoded.rate, limits=limits)
    if encoded.data is not None:
        return open_video(encoded.data, limits=limits, motion=motion)
    assert encoded.path is not None
    if encoded.moment is not None:
        start, stop, _ = encoded.moment
        return Moment(encoded.path, start, stop, limits=limits, motion=motion)
    return open_video(encoded.path, span=encoded.span, limits=limits, motion=motion)


def _unique(indices: Sequence[int] | np.ndarray, info: VideoInfo) -> tuple[list[int], np.ndarray]:
    unique, inverse = np.unique(np.asarray(indices, np.int64), return_inverse=True)
    if len(unique) == 0 or unique[0] < 0 or unique[-1] >= info.num_frames:
        raise ValueError(
            f"frames {unique[:1].tolist()}..{unique[-1:].tolist()} are outside of a video of {info.num_frames} frames"
        )
    return unique.tolist(), inverse
