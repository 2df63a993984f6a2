"""From one video to its records, as a stream: a frame at a time is in memory, and the clip being written.

Frames come in the order they are shown, each with its real time stamp. With `rate`, moment k / rate
shows the frame that a player shows then: the last one that has begun.
"""

import contextlib
import dataclasses
import io
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from PIL import Image

from vmae_jax.data.decode import Reader, open_encoded
from vmae_jax.data.display import quarter_turns
from vmae_jax.data.encode import H264
from vmae_jax.data.opening import reason
from vmae_jax.data.prepare.fit import Fit
from vmae_jax.data.prepare.options import Options
from vmae_jax.data.prepare.options import options as make_options
from vmae_jax.data.prepare.sound import BadSound, copied_sound
from vmae_jax.data.video import BadVideo, Encoded, MachineFault, VideoInfo, unreadable

__all__ = ["KEEP_BYTES", "RECORD_BYTES", "examples"]

KEEP_BYTES = 128 << 20  # a file that is kept whole passes through memory
RECORD_BYTES = 64 << 20  # past it, a clip is ended and another begun
_Frames = Iterator[tuple[int, VideoFrame]]


def examples(
    encoded: Encoded,
    options: Options,
    *,
    key: str,
    note: Callable[[str], None] = print,
    alive: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """The fields of every record of a video (see `record`), without its labels.

    Args:
      encoded: the video.
      options: how it is to be stored.
      key: its name.
      note: called with what a person should know about a video that is prepared nevertheless.
      alive: called at every frame.

    Raises:
      BadVideo: if it cannot be read to its end or written in the new form, also after some records were given; the
        message names the frame.
      MachineFault: if the machine fails, not the video.
    """
    whole = next((side for name, side in encoded.sides.items() if name != "audio"), None)
    begin = round(1e6 * ((encoded.moment[0] if encoded.moment else 0.0) + (whole.start if whole else 0.0)))
    with _findings():
        if encoded.moment is not None:
            options = _of_moment(options, encoded.moment[2])
        with contextlib.closing(open_encoded(encoded)) as reader:
            frames = _watched(reader.frames(), alive)
            if options.codec == "keep":
                made = iter([_kept(encoded, reader.info, frames, key)])
            else:
                made = _encoded(encoded, reader, frames, options, key, note)
            for fields in made:
                numbers = fields["frame_numbers"]
                if whole is not None and whole.frames:  # a record of what was prepared before
                    numbers = [whole.frames[number] for number in numbers]
                yield fields | {"start_us": begin + fields["start_us"], "frame_numbers": numbers}


def _of_moment(options: Options, short_side: int | None) -> Options:
    """How a moment of a long file is stored: there is no file of it to keep, so it becomes one of H.264."""
    side = options.short_side or short_side
    if options.codec == "keep":
        return make_options(codec="h264", short_side=side, sound=False, file_format=options.file_format)
    return dataclasses.replace(options, short_side=side)


@contextlib.contextmanager
def _findings() -> Iterator[None]:
    """Turns what goes wrong with a video into its `BadVideo`, so that one odd file does not end a preparation."""
    try:
        yield
    except (BadVideo, MachineFault):
        raise
    except OSError as error:
        raise unreadable(error) from error
    except (FFmpegError, ValueError, ArithmeticError, LookupError, MemoryError, RuntimeError) as error:
        raise BadVideo(f"cannot be prepared ({type(error).__name__}: {reason(error)})") from error


def _watched(frames: Iterator[Any], alive: Callable[[], None]) -> Iterator[Any]:
    for frame in frames:
        alive()
        yield frame


def _kept(encoded: Encoded, info: VideoInfo, frames: _Frames, key: str) -> dict[str, Any]:
    """The file itself, after every frame of it was decoded."""
    if encoded.frames is not None:
        raise BadVideo("is a list of pictures, which codec=keep does not store: use jpeg or h264")
    data = _bytes(encoded)
    numbers, turned = [], False
    for number, frame in frames:
        turned = turned or quarter_turns(frame) % 2 == 1
        numbers.append(number)
    times = np.asarray(info.times)[numbers]
    height, width = (info.width, info.height) if turned else (info.height, info.width)
    fields = {"video": data, "key": key, "height": height, "width": width, "start_us": 0, "frame_numbers": numbers}
    return fields | _timing(times, info.rate)


class _Moment(NamedTuple):
    """A frame to be stored: its place in the result, its time stamp there, the seconds it stands at, its number."""

    place: int
    stamp: int
    seconds: float
    frame: VideoFrame
    number: int


def _encoded(
    encoded: Encoded, reader: Reader, frames: _Frames, options: Options, key: str, note: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    moments, total, time_base = _moments(reader, frames, options)
    duration = total * (1 / (options.rate or reader.info.rate))
    parts = max(1, math.ceil(duration / options.seconds - 1e-6)) if options.seconds else 1
    clip: _Clip | None = None
    count = 0
    for moment in moments:
        part = moment.place * parts // total
        if clip is not None and (part != clip.part or clip.writer.size > RECORD_BYTES):
            yield clip.finish(_name(key, count, parts), moment.seconds, note)
            count, clip = count + 1, None
        if clip is None:
            clip = _Clip(encoded, options, reader, moment, part, time_base)
        clip.add(moment)
    if clip is None:
        raise BadVideo("has no frame that can be decoded")
    yield clip.finish(_name(key, count, parts), None, note)


def _name(key: str, count: int, parts: int) -> str:
    return f"{key}#{count}" if parts > 1 or count else key


def _moments(reader: Reader, frames: _Frames, options: Options) -> tuple[Iterator[_Moment], int, Fraction]:
    """The frames to be stored, how many there should be, and the unit of their time stamps."""
    times = np.asarray(reader.info.times)
    if options.rate is None:
        own = (_Moment(i, reader.stamps[i], float(times[i]), frame, i) for i, frame in frames)
        return own, len(times), reader.time_base
    rate = Fraction(options.rate).limit_denominator(1001)
    total = math.floor(float(times[-1]) * rate + 1e-6) + 1
    return _resampled(frames, times, rate, total), total, 1 / rate


def _resampled(frames: _Frames, times: np.ndarray, rate: Fraction, total: int) -> Iterator[_Moment]:
    held: VideoFrame | None = None
    place = shown = 0
    for number, frame in frames:
        while held is not None and place < total and place / rate < times[number] - 1e-6:
            yield _Moment(place, place, float(place / rate), held, shown)
            place += 1
        held, shown = frame, number
    while held is not None and place < total:
        yield _Moment(place, place, float(place / rate), held, shown)
        place += 1


class _Clip:
    """A record that is being written."""

    def __init__(
        self, encoded: Encoded, options: Options, reader: Reader, first: _Moment, part: int, time_base: Fraction
    ) -> None:
        self.part = part
        self._encoded, self._options = encoded, options
        self._first = first
        self._rate = options.rate or reader.info.rate
        self._fit = Fit(first.frame, options, (reader.info.width, reader.info.height))
        self.writer: Any = _Jpegs(options.quality)
        if options.codec == "h264":
            rate = Fraction(self._rate).limit_denominator(1001)
            self.writer = H264(
                self._fit.width, self._fit.height, rate=rate, time_base=time_base,
                group=options.gop, quality=options.quality,
            )  # fmt: skip
        self._seconds: list[float] = []
        self._first_number = reader.info.first
        self._numbers: list[int] = []

    def add(self, moment: _Moment) -> None:
        self._seconds.append(moment.seconds)
        self._numbers.append(self._first_number + moment.number)
        self.writer.add(self._fit(moment.frame), moment.stamp - self._first.stamp)

    def finish(self, key: str, end: float | None, note: Callable[[str], None]) -> dict[str, Any]:
        """The record's fields; `end` is where the next clip begins, in seconds."""
        start = self._first.seconds
        made = {
            "video": self.writer.finish(),
            "key": key,
            "height": self._fit.height,
            "width": self._fit.width,
            "start_us": round(start * 1e6),
            "frame_numbers": self._numbers,
            **_timing(np.asarray(self._seconds), self._rate),
        }
        if self._options.sound:
            try:
                made["audio"] = copied_sound(self._encoded, start, end)
            except BadSound as error:  # the pictures are what counts
                made["audio"] = b""
                note(f"{key}: {error}")
        return made


def _timing(seconds: np.ndarray, rate: float) -> dict[str, Any]:
    span = float(seconds[-1] - seconds[0])
    return {
        "num_frames": len(seconds),
        "rate": float((len(seconds) - 1) / span if span > 0 else rate),
        "times_us": [round(float(t - seconds[0]) * 1e6) for t in seconds],
    }


class _Jpegs:
    """Pictures of the frames, one after the other."""

    def __init__(self, quality: int) -> None:
        self._quality = quality
        self._pictures: list[bytes] = []
        self.size = 0

    def add(self, frame: VideoFrame, stamp: int) -> None:
        del stamp  # the record has the times
        file = io.BytesIO()
        Image.fromarray(frame.to_ndarray()).save(file, "JPEG", quality=self._quality)
        self._pictures.append(file.getvalue())
        self.size += len(self._pictures[-1])

    def finish(self) -> tuple[bytes, ...]:
        return tuple(self._pictures)


def _bytes(encoded: Encoded) -> bytes:
    """The whole file. Raises BadVideo: it is larger than what is kept whole."""
    if encoded.data is not None:
        size, first = len(encoded.data), 0
    else:
        assert encoded.path is not None
        first, size = encoded.span or (0, os.path.getsize(encoded.path))
    if size > KEEP_BYTES:
        raise BadVideo(
            f"is {size >> 20} MiB; codec=keep stores files of up to {KEEP_BYTES >> 20} MiB: "
            "use h264 or jpeg, with seconds to cut it"
        )
    if encoded.data is not None:
        return encoded.data
    with open(str(encoded.path), "rb") as file:
        file.seek(first)
        return file.read(size)
