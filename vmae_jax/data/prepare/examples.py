"""From one video to its records, as a stream: a frame at a time is in memory, and the clip being written.

Frames come in the order they are shown, each with its real time stamp. With `rate`, moment k / rate
shows the frame that a player shows then: the last one that has begun.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame

from vmae_jax.data.decode import Reader, open_encoded
from vmae_jax.data.display import quarter_turns
from vmae_jax.data.opening import reason
from vmae_jax.data.prepare.clip import Clip, Moment, timing
from vmae_jax.data.prepare.record import Options
from vmae_jax.data.prepare.record import options as make_options
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
    return fields | timing(times, info.rate)


def _encoded(
    encoded: Encoded, reader: Reader, frames: _Frames, options: Options, key: str, note: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    moments, total, time_base = _moments(reader, frames, options)
    duration = total * (1 / (options.rate or reader.info.rate))
    parts = max(1, math.ceil(duration / options.seconds - 1e-6)) if options.seconds else 1
    clip: Clip | None = None
    count = 0
    for moment in moments:
        part = moment.place * parts // total
        if clip is not None and (part != clip.part or clip.writer.size > RECORD_BYTES):
            yield clip.finish(_name(key, count, parts), moment.seconds, note)
            count, clip = count + 1, None
        if clip is None:
            clip = Clip(encoded, options, reader, moment, part, time_base)
        clip.add(moment)
    if clip is None:
        raise BadVideo("has no frame that can be decoded")
    yield clip.finish(_name(key, count, parts), None, note)


def _name(key: str, count: int, parts: int) -> str:
    return f"{key}#{count}" if parts > 1 or count else key


def _moments(reader: Reader, frames: _Frames, options: Options) -> tuple[Iterator[Moment], int, Fraction]:
    """The frames to be stored, how many there should be, and the unit of their time stamps."""
    times = np.asarray(reader.info.times)
    if options.rate is None:
        own = (Moment(i, reader.stamps[i], float(times[i]), frame, i) for i, frame in frames)
        return own, len(times), reader.time_base
    rate = Fraction(options.rate).limit_denominator(1001)
    total = math.floor(float(times[-1]) * rate + 1e-6) + 1
    return _resampled(frames, times, rate, total), total, 1 / rate


def _resampled(frames: _Frames, times: np.ndarray, rate: Fraction, total: int) -> Iterator[Moment]:
    held: VideoFrame | None = None
    place = shown = 0
    for number, frame in frames:
        while held is not None and place < total and place / rate < times[number] - 1e-6:
            yield Moment(place, place, float(place / rate), held, shown)
            place += 1
        held, shown = frame, number
    while held is not None and place < total:
        yield Moment(place, place, float(place / rate), held, shown)
        place += 1


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
