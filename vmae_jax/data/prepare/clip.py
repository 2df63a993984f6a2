"""A record that is being written: its frames brought into the shape in which they are stored, encoded, and its sound.

The sound is copied as it is coded into a file of its own.
"""

import io
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from PIL import Image

from vmae_jax.data.decode import Reader
from vmae_jax.data.display import EXACT, Display, quarter_turns
from vmae_jax.data.encode import H264
from vmae_jax.data.opening import opened_sound
from vmae_jax.data.prepare.record import Options
from vmae_jax.data.video import BadVideo, Encoded

__all__ = ["Clip", "Moment", "timing"]


class Moment(NamedTuple):
    """A frame to be stored: its place in the result, its time stamp there, the seconds it stands at, its number."""

    place: int
    stamp: int
    seconds: float
    frame: VideoFrame
    number: int


class Clip:
    """A record that is being written."""

    def __init__(
        self, encoded: Encoded, options: Options, reader: Reader, first: Moment, part: int, time_base: Fraction
    ) -> None:
        self.part = part
        self._encoded, self._options = encoded, options
        self._first = first
        self._rate = options.rate or reader.info.rate
        self._fit = _Fit(first.frame, options, (reader.info.width, reader.info.height))
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

    def add(self, moment: Moment) -> None:
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
            **timing(np.asarray(self._seconds), self._rate),
        }
        if self._options.sound:
            try:
                made["audio"] = _copied_sound(self._encoded, start, end)
            except _BadSound as error:  # the pictures are what counts
                made["audio"] = b""
                note(f"{key}: {error}")
        return made


def timing(seconds: np.ndarray, rate: float) -> dict[str, Any]:
    span = float(seconds[-1] - seconds[0])
    return {
        "num_frames": len(seconds),
        "rate": float((len(seconds) - 1) / span if span > 0 else rate),
        "times_us": [round(float(t - seconds[0]) * 1e6) for t in seconds],
    }


class _Fit:
    """Brings frames into the shape in which they are stored: upright, square pixels, shrunk, even sides for h264.

    Args:
      first: a frame of the video.
      options: how it is to be stored.
      size: width and height of a frame in square pixels, before it is turned.
    """

    def __init__(self, first: VideoFrame, options: Options, size: tuple[int, int]) -> None:
        self._show = Display()
        self._h264 = options.codec == "h264"
        self._quarters = quarter_turns(first)
        width, height = self._turned(size)
        shrink = min(1.0, options.short_side / min(width, height)) if options.short_side else 1.0
        if shrink < 1.0:
            self.width, self.height = (max(2, 2 * round(side * shrink / 2)) for side in (width, height))
            self._scaled = self._turned((self.width, self.height))
        else:
            self.width, self.height = (side - side % 2 if self._h264 else side for side in (width, height))
            self._scaled = size
        if min(self.width, self.height) < 2:
            raise BadVideo(f"has {width}x{height} pixels, too few to encode")
        self._cropped = self._turned(self._scaled) != (self.width, self.height)

    def _turned(self, size: tuple[int, int]) -> tuple[int, int]:
        return (size[1], size[0]) if self._quarters % 2 else size

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        how: dict[str, Any] = {"dst_color_range": "MPEG"} if self._h264 else {}
        wanted = "yuv420p" if self._h264 else "rgb24"
        if not (self._quarters or self._cropped):
            return self._show(frame, *self._scaled, wanted, interpolation=EXACT, **how)
        picture = self._show(frame, *self._scaled, "rgb24", interpolation=EXACT).to_ndarray()
        picture = np.rot90(picture.astype(np.uint8, copy=False), self._quarters)[: self.height, : self.width]
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        return self._show(frame, self.width, self.height, wanted, interpolation=EXACT, **how)


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


class _BadSound(ValueError):  # noqa: N818 - like BadVideo
    """Sound that cannot be copied; the message is the reason, in one line."""


def _copied_sound(encoded: Encoded, start: float, end: float | None) -> bytes:
    """The sound from `start` to `end` seconds after the first picture, as a Matroska file.

    Packets are copied, not decoded: nothing is lost, and a packet that begins before `end` is there
    whole. Times in the file count from `start`.

    Returns:
      b"" where there is no sound.

    Raises:
      _BadSound: it is damaged, or of a kind that Matroska does not hold.
    """
    stored = encoded.sides.get("audio")  # of a record
    if stored is not None:
        return (
            _copied_from(Encoded(data=stored.data, path=stored.path), start, end, beside=True) if stored.data else b""
        )
    if encoded.frames is not None:
        return b""
    if encoded.moment is not None:
        start, end = start + encoded.moment[0], encoded.moment[1] if end is None else end + encoded.moment[0]
    return _copied_from(encoded, start, end)


def _copied_from(encoded: Encoded, start: float, end: float | None, *, beside: bool = False) -> bytes:
    """The sound of a file; `beside` of one that has no pictures and begins with them."""
    source = encoded.data if encoded.data is not None else encoded.path
    assert source is not None
    try:
        with opened_sound(source, encoded.span) as container:
            streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
            if not streams or not (beside or container.streams.video):
                return b""
            origin = 0.0
            if not beside:
                video = container.streams.video[0]
                origin = float((video.start_time or 0) * (video.time_base or 0))
            return _copied(container, streams[0], origin + start, None if end is None else origin + end)
    except BadVideo as error:
        raise _BadSound(f"its sound {error}") from error


def _copied(container: Any, stream: Any, start: float, end: float | None) -> bytes:
    base = stream.time_base
    first, last = round(start / base), None if end is None else round(end / base)
    file = io.BytesIO()
    written = 0
    try:
        container.seek(max(first - round(1 / base), 0), stream=stream)
        with av.open(file, mode="w", format="matroska", options={"fflags": "+bitexact"}) as out:
            copy = out.add_stream_from_template(stream)
            for packet in container.demux(stream):
                if packet.pts is None or packet.dts is None or packet.pts < first:
                    continue
                if last is not None and packet.pts >= last:
                    break
                packet.pts -= first
                packet.dts -= first
                packet.stream = copy
                out.mux(packet)
                written += 1
    except (FFmpegError, ValueError) as error:
        raise _BadSound(f"its sound ({stream.codec_context.name}) cannot be copied: {error}") from error
    return file.getvalue() if written else b""
