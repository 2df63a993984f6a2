"""Writes H.264 in MP4, with sound in MP4 or Matroska: the same frames and samples always give the same bytes."""

import dataclasses
import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

__all__ = ["H264", "SOUND_CODECS", "Sound", "encode_h264"]

SOUND_CODECS = {"aac": "mp4", "pcm_s16le": "matroska"}  # and the container of each
_PIECE = 1024  # samples that are handed to the encoder at a time


@dataclasses.dataclass(frozen=True)
class Sound:
    """Sound that begins with the first frame.

    Attributes:
      samples: int16 [n].
      rate: samples a second.
      codec: one of SOUND_CODECS.
    """

    samples: np.ndarray
    rate: int
    codec: str = "aac"


def encode_h264(
    frames: np.ndarray, *, rate: float = 25.0, group: int = 12, quality: int = 18, sound: Sound | None = None
) -> bytes:
    """A video file of uint8 RGB `frames` [t h w 3]: an MP4, or with sound what SOUND_CODECS names.

    One thread, no time stamps of its own making, and colours converted here in integers, so that
    neither the number of cores nor the processor's kind shows in the bytes.

    Args:
      rate: frames a second.
      group: frames from one key frame to the next. Short groups make reading a few frames out of
        the middle 1.6 to 1.9 times cheaper than the encoder's own choice of 250.
      quality: x264's constant rate factor; lower is better and larger.
      sound: none by default.

    Raises:
      ValueError: a side is odd, which H.264 in its common form does not have.
    """
    height, width = frames.shape[1:3]
    if frames.ndim != 4 or frames.shape[-1] != 3 or height % 2 or width % 2:
        raise ValueError(f"frames {frames.shape}: [t h w 3] with even h and w are needed")
    rhythm = Fraction(rate).limit_denominator(1001)
    writer = H264(width, height, rate=rhythm, time_base=1 / rhythm, group=group, quality=quality, sound=sound)
    for number, picture in enumerate(_yuv420(frames)):
        writer.add(av.VideoFrame.from_ndarray(picture, format="yuv420p"), number)
    return writer.finish()


class H264:
    """Writes a video file into memory, frame by frame, with the sound in step.

    Args:
      width: pixels, even.
      height: pixels, even.
      rate: frames a second, about; the encoder assumes this even pace, the file has the time stamps.
      time_base: seconds, the unit of the frames' time stamps.
      group: as `encode_h264`.
      quality: as `encode_h264`.
      sound: as `encode_h264`.
    """

    def __init__(
        self,
        width: int,
        height: int,
        *,
        rate: Fraction,
        time_base: Fraction,
        group: int,
        quality: int,
        sound: Sound | None = None,
    ) -> None:
        self._file = io.BytesIO()
        container = SOUND_CODECS[sound.codec] if sound else "mp4"
        self._container = av.open(self._file, mode="w", format=container, options={"fflags": "+bitexact"})
        self._stream: Any = self._container.add_stream("libx264", rate=rate)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.codec_context.time_base = 1 / rate
        self._stream.time_base = self._time_base = time_base
        self._even, self._stamps = 1 / rate, []
        self._stream.thread_count = 1
        self._stream.options = {
            "preset": "veryfast",
            "crf": str(quality),
            "g": str(group),
            "bf": "2",
            "flags": "+bitexact",
            # Without cpu-independent the macroblock tree's floats differ between processors, and even between runs.
            "x264-params": "cpu-independent=1:threads=1:lookahead-threads=1:sliced-threads=0:sync-lookahead=0",
        }
        self._sound, self._heard = sound, 0
        if sound is not None:
            self._audio: Any = self._container.add_stream(sound.codec, rate=sound.rate, layout="mono")
            self._audio.options = {"flags": "+bitexact"}

    @property
    def size(self) -> int:
        """Bytes so far, without the frames that the encoder still holds."""
        return self._file.tell()

    def add(self, frame: Any, stamp: int) -> None:
        """Adds a yuv420p frame, shown at `stamp`; the first one's colour space is the file's."""
        if not self._stream.codec_context.is_open:
            for name in ("colorspace", "color_range"):
                setattr(self._stream.codec_context, name, getattr(frame, name))
        frame.pts, frame.time_base = len(self._stamps), self._even
        frame.pict_type = 0  # the encoder chooses; a decoded frame has the type that it had
        self._stamps.append(stamp)
        self._write(self._stream.encode(frame))
        self._hear(len(self._stamps) * self._even)

    def _hear(self, end: Fraction | None) -> None:
        """Write the sound up to a second, or all that is left."""
        if self._sound is None:
            return
        samples, rate = self._sound.samples, self._sound.rate
        last = len(samples) if end is None else min(len(samples), int(end * rate) // _PIECE * _PIECE)
        for first in range(self._heard, last, _PIECE):
            piece = np.ascontiguousarray(samples[first : min(first + _PIECE, last)])[None]
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
            self._container.mux(self._audio.encode(frame))
        self._heard = max(self._heard, last)
        if end is None:
            self._container.mux(self._audio.encode(None))

    def _write(self, packets: Sequence[Any]) -> None:
        """Packets with their frames' time stamps in place of their frames' numbers."""
        for packet in packets:
            packet.duration = self._stamp(packet.pts + 1) - self._stamp(packet.pts)
            packet.pts, packet.dts = self._stamp(packet.pts), self._stamp(packet.dts)
            packet.time_base = self._time_base
            self._container.mux(packet)

    def _stamp(self, number: int) -> int:
        """The time stamp of a frame; before the first and after the last at an even pace."""
        pace = max(1, round(self._even / self._time_base))
        last = len(self._stamps) - 1
        return self._stamps[min(max(number, 0), last)] + pace * (min(number, 0) + max(number - last, 0))

    def finish(self) -> bytes:
        """The file."""
        self._write(self._stream.encode())
        self._hear(None)
        self._container.close()
        return self._file.getvalue()


def _yuv420(frames: np.ndarray) -> np.ndarray:
    """BT.601 limited range with halved chroma, uint8 [t 3h/2 w], planes below one another."""
    t, h, w, _ = frames.shape
    planes = np.ascontiguousarray(np.moveaxis(frames, -1, 0)).astype(np.uint16)  # sums stay below 2^16
    r, g, b = planes
    y = (66 * r + 129 * g + 25 * b + 128 >> 8) + 16
    half = planes[..., ::2, ::2] + planes[..., 1::2, ::2] + planes[..., ::2, 1::2] + planes[..., 1::2, 1::2]
    r, g, b = half.astype(np.int32)  # sums of four, so two more bits to shift
    u = (-38 * r - 74 * g + 112 * b + 512 >> 10) + 128
    v = (112 * r - 94 * g - 18 * b + 512 >> 10) + 128
    rows = [plane.astype(np.uint8).reshape(t, -1) for plane in (y, u, v)]
    return np.concatenate(rows, axis=1).reshape(t, h * 3 // 2, w)
