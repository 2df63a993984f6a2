"""Text beside a video: captions, or subtitles with times."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vmae_jax.data.order import generator
from vmae_jax.data.streams.core import ArraySpec, Clip, ClipShape, FileStream, Recording
from vmae_jax.data.texts import text_of
from vmae_jax.data.video import BadVideo
from vmae_jax.registry import register

__all__ = ["Cue", "Text", "cues", "text"]

_LIMIT = 4 << 20  # bytes of a file
_TIMES = re.compile(r"([0-9:.,]{5,15})[ \t]*-->[ \t]*([0-9:.,]{5,15})(?:[ \t].{0,500})?")
_CLOCK = re.compile(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})")
_MARKUP = re.compile(r"<[^<>]{0,200}>|\{\\[^{}]{0,200}\}")


class Cue(NamedTuple):
    """A line of subtitles: when it is shown, in seconds, and what it reads."""

    begin: float
    end: float
    text: str


@register("stream", tokenizer="tokenizer")
def text(tokenizer: Any, length: int = 77, random: bool = True, of: str | None = None) -> "Text":
    """Numbers of a text, int32 [length], zeros past its end; NAME_mask, bool [length], where there is text.

    Of plain text with a caption a line, each clip has one, drawn at random; of subtitles (SRT or WebVTT) those that
    are shown while the clip is. Files are UTF-8, or UTF-16 with a byte order mark. NAME_valid is False where there is
    no text, or no subtitle at that time.

    Args:
      tokenizer: from `data.streams.tokenizers`.
      length: numbers at most; a longer text is cut off, its last number replaced by the tokenizer's last.
      random: False takes the first caption.
      of: what of the things beside a video it is, by name; by default what has the stream's name.
    """
    if length < 1:
        raise ValueError(f"length={length}: it must be at least 1")
    return Text(tokenizer, length, random, of)


@dataclasses.dataclass(frozen=True)
class Text(FileStream):
    """See `text`."""

    tokenizer: Any
    length: int
    random: bool
    of: str | None = None
    limit = _LIMIT

    def opened(self) -> "Text":
        """See `Stream.opened`."""
        return dataclasses.replace(self, tokenizer=self.tokenizer.opened())

    def fields(self, shape: ClipShape) -> Mapping[str, ArraySpec]:
        return {"": ArraySpec((self.length,), np.int32), "_mask": ArraySpec((self.length,), np.bool_)}

    def parse(
        self, data: bytes, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]
    ) -> Sequence[bool]:
        try:
            whole = text_of(data)
        except ValueError as error:
            raise BadVideo(str(error)) from error
        timed = cues(whole)
        captions = [line.strip() for line in whole.splitlines() if line.strip()]
        for row, clip in enumerate(clips):
            if timed or whole.startswith("WEBVTT"):
                begin, end = (recording.side_seconds(moment) for moment in clip.span)
                chosen = " ".join(cue.text for cue in timed if cue.begin < end and cue.end > begin)
            else:
                chosen = self._caption(captions, clip)
            if chosen:
                self._put(self.tokenizer.encode(chosen), out[""][row], out["_mask"][row])
        return np.any(out["_mask"], axis=1)

    def _caption(self, captions: Sequence[str], clip: Clip) -> str:
        if not captions:
            return ""
        return captions[int(generator(np.asarray(clip.seed)).integers(len(captions))) if self.random else 0]

    def _put(self, numbers: Sequence[int], row: np.ndarray, mask: np.ndarray) -> None:
        kept = [*numbers[: self.length - 1], numbers[-1]] if len(numbers) > self.length else numbers
        row[: len(kept)] = kept
        mask[: len(kept)] = True


def cues(whole: str) -> list[Cue]:
    """Return the subtitles of SRT or WebVTT text, in order and without markup; none of any other text."""
    found: list[Cue] = []
    lines = iter([*whole.splitlines(), ""])
    for line in lines:
        times = _TIMES.fullmatch(line.strip()[:600])
        begin, end = (_seconds(times[1]), _seconds(times[2])) if times else (None, None)
        if begin is None or end is None:
            continue
        words: list[str] = []
        for part in lines:
            if not part.strip():
                break
            words += _MARKUP.sub("", part).split()
        if words:
            found.append(Cue(begin, end, " ".join(words)))
    return found


def _seconds(clock: str) -> float | None:
    parts = _CLOCK.fullmatch(clock)
    if parts is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in parts.groups()[:3])
    return 3600 * hours + 60 * minutes + seconds + int(parts[4].ljust(3, "0")) / 1000
