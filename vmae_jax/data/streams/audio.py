"""The sound around a clip, from the video's own file or from one beside it.

Sound is placed by counting samples: containers round time stamps (Matroska to milliseconds), and samples that were
put where their stamps point would overlap or leave holes. A stamp counts where a piece of sound begins, and after a
gap longer than any rounding. Each window is decoded from a fixed time before it, so what a clip hears does not
depend on which other clips are read with it.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.error import FFmpegError

from vmae_jax.data.opening import opened_sound, reason
from vmae_jax.data.streams.core import ArraySpec, Clip, ClipShape, Recording, Stream
from vmae_jax.data.video import BadVideo
from vmae_jax.registry import register

__all__ = ["Audio", "audio"]

_LEAD = 0.5  # seconds decoded before a window, for decoders that need a run-up
_GAP = 0.05  # seconds between a stamp and the count of samples past which the stamp is believed
_UNSEEKABLE = ("mp3", "aac")  # containers whose time stamps are guesses after a seek, and begin with the coder's delay
_RATES = (1000, 768_000)  # samples a second that a file may have


@register("stream", smoke={"seconds": 0.5})
def audio(
    seconds: float, rate: int = 16000, channels: int = 1, align: str = "center", of: str | None = None
) -> "Audio":
    """Sound around each clip, int16 [samples] or, of several channels, [samples channels].

    Where the sound begins late or ends early the rest is silence; NAME_span, int32 [2], has the first sample that is
    sound and the first one after it. NAME_valid is False where the window has no sound at all.

    Args:
      seconds: length of the window.
      rate: samples a second, to which the sound is resampled.
      channels: 1 (mixed down) or 2.
      align: the window has the clip's middle in its middle ("center"), or begins with it ("start").
      of: what of the things beside a video is its sound, by name; by default what has the stream's name. A video
        that has nothing beside it of that name is heard itself.
    """
    if not 0 < seconds <= 600 or not 1000 <= rate <= 192_000:
        raise ValueError(f"seconds={seconds}, rate={rate}: up to 600 seconds of 1000 to 192000 samples")
    if channels not in (1, 2) or align not in ("center", "start"):
        raise ValueError(f"channels={channels}, align={align!r}: 1 or 2 channels, aligned by 'center' or 'start'")
    return Audio(float(seconds), rate, channels, align, of)


@dataclasses.dataclass(frozen=True)
class Audio(Stream):
    """See `audio`."""

    seconds: float
    rate: int
    channels: int
    align: str
    of: str | None = None

    @property
    def samples(self) -> int:
        """Samples of a window."""
        return round(self.seconds * self.rate)

    def fields(self, shape: ClipShape) -> Mapping[str, ArraySpec]:
        sides = (self.samples,) if self.channels == 1 else (self.samples, self.channels)
        return {"": ArraySpec(sides, np.int16), "_span": ArraySpec((2,), np.int32)}

    def read(self, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]) -> Sequence[bool]:
        done: dict[float, int] = {}
        for row, clip in enumerate(clips):
            begin = clip.span[0] if self.align == "start" else sum(clip.span) / 2 - self.seconds / 2
            if begin in done:  # repeats hear the same
                for array in out.values():
                    array[row] = array[done[begin]]
                continue
            done[begin] = row
            window = out[""][row].reshape(self.samples, self.channels)
            with _sound(recording) as sound:
                if sound is not None:
                    out["_span"][row] = self._window(*sound, begin, window)
        return [bool(last > first) for first, last in out["_span"]]

    def _window(self, container: Any, stream: Any, origin: float, begin: float, window: np.ndarray) -> tuple[int, int]:
        """Fill a window that begins at a second of the video, and return which of its samples are sound."""
        heard: list[tuple[int, int]] = []
        try:
            for at, samples in self._pieces(container, stream, origin + begin):
                first, last = max(at, 0), min(at + len(samples), self.samples)
                if first < last:
                    window[first:last] = samples[first - at : last - at]
                    heard.append((first, last))
        except (FFmpegError, OSError, ValueError) as error:
            raise BadVideo(f"cannot be decoded ({reason(error)})") from error
        return (min(first for first, _ in heard), max(last for _, last in heard)) if heard else (0, 0)

    def _pieces(self, container: Any, stream: Any, begin: float) -> Iterator[tuple[int, np.ndarray]]:
        """Samples [n channels] at their places in the window, in order; a gap begins a piece at a place of its own."""
        resampler, place, due = None, 0, 0.0
        for second, frame in _frames(container, stream, begin - _LEAD):
            if second > begin + self.seconds + _LEAD:
                break
            if resampler is not None and abs(second - due) > _GAP:
                yield from self._placed(place, resampler.resample(None))
                resampler = None
            if resampler is None:
                resampler, due = self._resampler(), second
                place = round((second - begin) * self.rate)
            due += frame.samples / frame.sample_rate
            frame.pts = None  # counted, not stamped
            for at, samples in self._placed(place, resampler.resample(frame)):
                yield at, samples
                place = at + len(samples)
        if resampler is not None:
            yield from self._placed(place, resampler.resample(None))

    def _resampler(self) -> AudioResampler:
        return AudioResampler(format="s16", layout="mono" if self.channels == 1 else "stereo", rate=self.rate)

    def _placed(self, place: int, frames: Sequence[AudioFrame]) -> Iterator[tuple[int, np.ndarray]]:
        for frame in frames:
            samples = frame.to_ndarray().reshape(-1, self.channels)
            yield place, samples
            place += len(samples)


@contextlib.contextmanager
def _sound(recording: Recording) -> Iterator[tuple[Any, Any, float] | None]:
    """Open the sound: its container, its stream, and the second of it at which the video's first frame is shown.

    It is opened afresh for each window: what a decoder gives after a seek depends on what it gave before.
    """
    encoded, side = recording.encoded, recording.side
    if side is not None:
        source, span = side.path if side.data is None else side.data, None
    else:
        source, span = encoded.path if encoded.data is None else encoded.data, encoded.span
    if source is None or source == b"":  # pictures, and records of videos without sound
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(opened_sound(source, span))
        except BadVideo as error:
            if error.kind != "missing":
                raise
            container = None
        found = None if container is None or not container.streams.audio else container.streams.audio[0]
        if found is None:
            yield None
            return
        origin = recording.info.origin if side is None else _origin(container, found)
        _check(found)
        yield container, found, recording.side_seconds(origin)


def _check(stream: Any) -> None:
    codec = stream.codec_context
    if codec is None:
        raise BadVideo("is coded in a way that is not decoded", "unsupported")
    if not _RATES[0] <= codec.sample_rate <= _RATES[1]:
        raise BadVideo(f"has {codec.sample_rate} samples a second")


def _origin(container: Any, stream: Any) -> float:
    """The second of its own clock at which a file of sound begins."""
    return float((stream.start_time or 0) * stream.time_base) if container.format.name in _UNSEEKABLE else 0.0


def _frames(container: Any, stream: Any, start: float) -> Iterator[tuple[float, AudioFrame]]:
    """Decoded sound from a second of the file or before it, each piece with the second at which it begins."""
    first = stream.start_time or 0
    place = round(start / stream.time_base)
    if place > first and container.format.name not in _UNSEEKABLE:
        container.seek(place, stream=stream)
        found = _stamped(container, stream)
        piece = next(found, None)
        if piece is not None and piece[0] <= start + _LEAD:
            yield piece
            yield from found
            return
        container.seek(first, stream=stream)  # the seek went too far
    for second, frame in _stamped(container, stream):
        if second + frame.samples / frame.sample_rate > start:
            yield second, frame


def _stamped(container: Any, stream: Any) -> Iterator[tuple[float, AudioFrame]]:
    after = float((stream.start_time or 0) * stream.time_base)  # where a piece without a stamp begins
    for frame in container.decode(stream):
        if frame.samples and frame.sample_rate:
            second = after if frame.pts is None else float(frame.pts * frame.time_base)
            yield second, frame
            after = second + frame.samples / frame.sample_rate
