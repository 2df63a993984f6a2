"""What a stream is: something that a batch carries beside the pictures of a clip, such as sound, text or boxes.

A stream is declared once, as a frozen value that a loader's config names:

    call("data.pipeline.loader", …, streams={"audio": call("data.streams.audio.audio", rate=16000)})

The declaration states which arrays a row of a batch has (`fields`) and how they are read for the clips of a
video (`read`). Everything else is the same for every stream: it is read in the decoding process, with the frames
and the crop of each clip; crosses to the trainer in the shared memory that also holds the pictures; and
`NAME_valid` is False where a video has no such stream. This module imports neither TensorFlow nor JAX.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vmae_jax.data.scaling import View
from vmae_jax.data.video import BadVideo, Encoded, Side, VideoInfo
from vmae_jax.errors import ConfigError
from vmae_jax.names import message

__all__ = [
    "NONE",
    "RESERVED",
    "ArraySpec",
    "Clip",
    "ClipShape",
    "FileStream",
    "Recording",
    "Stream",
    "Streams",
    "check_streams",
    "clip_of",
    "side_of",
]

RESERVED = ("video", "seed", "index", "valid")  # of every batch


class ArraySpec(NamedTuple):
    """Shape and dtype of an array; a dimension (an integer) of None is not known yet."""

    shape: tuple[Any, ...]
    dtype: Any

    @property
    def bytes(self) -> int:
        """Size of the array."""
        return int(np.prod([side or 0 for side in self.shape], dtype=np.int64)) * np.dtype(self.dtype).itemsize


class ClipShape(NamedTuple):
    """What is known of every clip before any video is read.

    Attributes:
      frames: that the sampler takes.
      size: side of the square that is shown, in pixels.
      channels: of a picture.
    """

    frames: int
    size: int
    channels: int


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip of a video, as the streams beside its pictures see it.

    Attributes:
      frames: numbers of its frames in the video, int64 [frames].
      seconds: when each of them is shown, counted from the video's first frame, float64 [frames].
      span: (begin, end) in seconds: from its first frame to the moment when its last one is over.
      picture: height and width of the video's pictures.
      view: which part of them is shown; None shows all of it.
      seed: of the clip, for what is random.
    """

    frames: np.ndarray
    seconds: np.ndarray
    span: tuple[float, float]
    picture: tuple[int, int]
    view: View | None
    seed: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Recording:
    """A video that a stream reads from.

    Attributes:
      encoded: the video as it is stored.
      info: what it holds.
      side: what is stored beside it for this stream, if anything.
      motion: the codec's motion vectors of a frame, by its number (`decode.Reader.motion`); streams with
        `needs_motion` alone may call it.
    """

    encoded: Encoded
    info: VideoInfo
    side: Side | None
    motion: Any = None

    def side_seconds(self, seconds: Any) -> Any:
        """Return moments of the video (from its first frame) as moments of what is stored beside it."""
        return seconds + self.info.start + (self.side.start if self.side else 0.0)

    def side_frames(self, frames: np.ndarray) -> np.ndarray:
        """Return frame numbers of the video as those that what is stored beside it was made for."""
        known = self.side.frames if self.side else None
        return self.info.first + frames if known is None else np.asarray(known)[frames]


class Stream:
    """Base of the streams; a subclass is a frozen dataclass that has `fields` and `read`.

    Attributes:
      of: what of a video's `Encoded.sides` the stream reads, by name; by default what has the stream's own name.
      geometric: whether it follows the crop, so that the crop has to be made in the decoding process.
      needs_motion: whether the decoder has to export motion vectors.
    """

    of: str | None = None
    geometric: bool = False
    needs_motion: bool = False

    def fields(self, shape: ClipShape) -> Mapping[str, ArraySpec]:
        """Return the arrays of a row: by suffix, "" for the batch's NAME, "_mask" for NAME_mask, and so on."""
        raise NotImplementedError

    def opened(self) -> "Stream":
        """Return the stream with the files read that all videos have in common, before any process decodes.

        Raises:
          ConfigError: if they cannot be read.
        """
        return self

    def read(self, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]) -> Sequence[bool]:
        """Fill `out`, by suffix arrays [clips, …] of zeros, and return for each clip whether it has the stream.

        Raises:
          BadVideo: if the stream is there but cannot be read.
        """
        raise NotImplementedError


class FileStream(Stream):
    """Base of the streams that are read from a file beside the video; a subclass has `fields` and `parse`.

    Attributes:
      limit: bytes of the file at most.
    """

    limit: int

    def read(self, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]) -> Sequence[bool]:
        """See `Stream.read`: a video without such a file does not have the stream."""
        data = recording.side.read(self.limit) if recording.side else None
        return [False] * len(clips) if data is None else self.parse(data, recording, clips, out)

    def parse(
        self, data: bytes, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]
    ) -> Sequence[bool]:
        """Do as `read` does, with the content of the file."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Streams:
    """The streams of a loader, by name, with the shape of its clips."""

    streams: Mapping[str, Stream]
    shape: ClipShape

    def specs(self) -> dict[str, ArraySpec]:
        """Return the arrays of a row of a batch, by name."""
        found = {}
        for name, stream in self.streams.items():
            for suffix, spec in stream.fields(self.shape).items():
                found[name + suffix] = spec
            found[f"{name}_valid"] = ArraySpec((), np.bool_)
        return found

    def opened(self) -> "Streams":
        """Return them opened (see `Stream.opened`)."""
        return Streams({name: stream.opened() for name, stream in self.streams.items()}, self.shape)

    @property
    def needs_motion(self) -> bool:
        """Whether a stream reads motion vectors."""
        return any(stream.needs_motion for stream in self.streams.values())

    def read(
        self, encoded: Encoded, info: VideoInfo, clips: Sequence[Clip], arrays: Mapping[str, np.ndarray], motion: Any
    ) -> None:
        """Read every stream into its arrays [clips, …].

        Raises:
          BadVideo: if a stream is there but cannot be read; the message begins with its name.
        """
        for name, stream in self.streams.items():
            out = {suffix: arrays[name + suffix] for suffix in stream.fields(self.shape)}
            for array in out.values():
                array[...] = 0
            try:
                recording = Recording(encoded, info, side_of(encoded, stream.of or name), motion)
                arrays[f"{name}_valid"][:] = stream.read(recording, clips, out)
            except BadVideo as error:
                raise BadVideo(f"{name}: {message(error)}", error.kind) from error
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # whatever a stranger's file led to
                reason = f"{type(error).__name__}: {message(error)[:100]}"
                raise BadVideo(f"{name}: cannot be read ({reason})") from error
            if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in out.values()):
                raise BadVideo(f"{name}: has numbers that are not finite in single precision")


NONE = Streams({}, ClipShape(0, 0, 0))


def check_streams(streams: Mapping[str, Any], shape: ClipShape, *, cropped: bool, taken: Sequence[str]) -> None:
    """Check the streams of a loader.

    Args:
      streams: by name.
      shape: of the loader's clips.
      cropped: whether the decoding process carries out every transform.
      taken: names that batches have already.

    Raises:
      ConfigError: if something is no stream, two arrays have one name, or a stream follows a crop that the decoding
        process does not make.
    """
    for name, stream in streams.items():
        if not isinstance(stream, Stream) or not name.isidentifier():
            raise ConfigError(f"loader: streams[{name!r}] must be a call of kind stream, under an identifier")
        if stream.geometric and not cropped:
            raise ConfigError(
                f"loader: streams[{name!r}] follows the crop, so transforms may only be one crop and flips after it"
            )
    names = [*RESERVED, *taken]
    for name, stream in streams.items():
        made = Streams({name: stream}, shape).specs()
        twice = next((one for one in made if one in names), None)
        if twice is not None:
            raise ConfigError(f"loader: streams[{name!r}]: a batch already has {twice!r}; rename the stream")
        names += made


def side_of(encoded: Encoded, name: str) -> Side | None:
    """Return what is beside a video under a name; a label that is text counts as such."""
    label = encoded.labels.get(name)
    return encoded.sides.get(name) or (Side(data=label.encode(errors="replace")) if isinstance(label, str) else None)


def clip_of(info: VideoInfo, frames: np.ndarray, picture: tuple[int, int], view: View | None, seed: Any) -> Clip:
    """Return the clip that shows `frames` of a video.

    The last frame is over when the next one of the clip's rhythm would begin: after the longest step between
    its frames, or after a frame's own time where there is only one.
    """
    seconds = np.asarray(info.times, np.float64)[frames]
    steps = np.diff(seconds)
    longest = float(steps.max()) if len(steps) else 0.0
    rest = longest if longest > 0 else 1.0 / info.rate if info.rate > 0 else 0.0
    span = (float(seconds.min()), float(seconds.max()) + rest)
    return Clip(np.asarray(frames, np.int64), seconds, span, picture, view, (int(seed[0]), int(seed[1])))
