"""Decodes every frame of every video and lists what is wrong with which.

    broken         damaged, cut off or beyond the limits: the reason, and the frame that failed
    unsupported    a valid file of a format that is not decoded, or sound without pictures
    missing        listed, and not there
    incomplete     some frames are announced, and no decoder gives them
    short          fewer frames than a clip needs
    variable       frames are not evenly spaced: sampling by number is not sampling by time
    rotated        carries a rotation (read upright here; other programs may not)
    wide pixels    pixels are not square (read here as a player shows them; other programs may not)
    interlaced     holds fields (one of each two is read here)
    changing size  frames are not all of one size (read at the size of the first)
    odd size       a side is odd, which common H.264 does not have

The first three keep a video from training; the others are worth knowing.
"""

import collections
import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from av.video.frame import VideoFrame

from vmae_jax.data.decode import open_encoded
from vmae_jax.data.display import quarter_turns
from vmae_jax.data.prepare.inputs import Origin, Part, open_inputs
from vmae_jax.data.prepare.produce import alarm
from vmae_jax.data.prepare.record import check_timeout
from vmae_jax.data.prepare.runners import run_jobs
from vmae_jax.data.video import ADVICE, BadVideo, Encoded
from vmae_jax.spec import ConfigError

__all__ = ["UNREADABLE", "check", "in_words", "validate"]

UNREADABLE = tuple(ADVICE)
_JOB = 32  # videos
_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class _CheckJob:
    """Checks some videos (see `produce.Job`)."""

    number: int
    part: Part
    least: int
    timeout: float

    def run(self, crashed: Mapping[int, str], report: Callable[..., None]) -> None:
        for index in range(len(self.part)):
            report(at=index)
            if index in crashed:
                found = [("broken", crashed[index])]
            else:
                with alarm(self.timeout) as alive:
                    found = list(_check_one(self.part, index, self.least, alive))
            report(done=index, found=found)


def validate(
    origin: Origin,
    *,
    sample: int | None = None,
    least: int = 16,
    workers: int | None = None,
    timeout: float = 60.0,
    progress: bool = True,
) -> dict[str, Any]:
    """Checks the videos of a source.

    Args:
      origin: where they are.
      sample: how many to check, chosen by the digests of their names; by default all.
      least: frames that a video should have.
      workers: processes; by default one a core.
      timeout: seconds in which a video has to give its next frame.
      progress: show a bar.

    Returns:
      {"videos": checked, "unreadable": how many cannot be read, "broken", "unsupported", "missing": how many of
      these are of each kind, "found": [{"key", "kind", "reason"}, …]}.

    Raises:
      ConfigError: there are no videos, or a number that makes no sense.
    """
    if least < 1 or (sample is not None and sample < 1):
        raise ConfigError(f"frames={least}, sample={sample}: at least 1")
    check_timeout(timeout)
    with tempfile.TemporaryDirectory() as scratch:
        inputs = open_inputs(origin, scratch=scratch)
        order = range(len(inputs.keys))
        if sample is not None:
            order = sorted(order, key=lambda i: hashlib.sha256(inputs.keys[i].encode()).digest())[:sample]
        groups = [order[start : start + _JOB] for start in range(0, len(order), _JOB)]
        found: dict[int, list[tuple[str, str]]] = {}

        def on_done(job: int, line: dict[str, Any]) -> str:
            found[groups[job][line["done"]]] = line["found"]
            return f"{sum(kind in UNREADABLE for kinds in found.values() for kind, _ in kinds)} unreadable"

        jobs = [_CheckJob(i, inputs.part(group), least, timeout) for i, group in enumerate(groups)]
        run_jobs(jobs, workers, on_done=on_done, progress=progress)
    findings = [
        {"key": inputs.keys[i], "kind": kind, "reason": reason} for i in sorted(found) for kind, reason in found[i]
    ]
    findings += [{"key": key, "kind": kind, "reason": reason} for key, kind, reason in inputs.refused]
    counts = collections.Counter(entry["kind"] for entry in findings)
    unreadable = {kind: counts[kind] for kind in UNREADABLE}
    videos = len(order) + len(inputs.refused)
    return {"videos": videos, "unreadable": sum(unreadable.values()), **unreadable, "found": findings}


def check(encoded: Encoded, *, least: int = 16, alive: Callable[[], None] = lambda: None) -> Iterator[tuple[str, str]]:
    """What is wrong with a video: (kind, reason) of each; nothing where it is good.

    Args:
      encoded: the video.
      least: frames that it should have.
      alive: called at every frame.
    """
    try:
        with contextlib.closing(open_encoded(encoded)) as reader:
            info, seen = reader.info, _Seen()
            for number, frame in reader.frames():
                alive()
                seen.add(number, frame)
    except BadVideo as error:
        yield error.kind, str(error)
        return
    if seen.count < info.num_frames:
        yield "incomplete", f"{info.num_frames - seen.count} of {info.num_frames} frames cannot be decoded"
    if seen.count < least:
        yield "short", f"has {seen.count} frames, fewer than {least}"
    gaps = np.diff(info.times)
    if len(gaps) and (gaps.max() > 1.5 * np.median(gaps) or gaps.min() < 0.5 * np.median(gaps)):
        yield "variable", f"has frames {gaps.min() * 1e3:.0f} to {gaps.max() * 1e3:.0f} ms apart"
    if info.pixel_aspect != 1:
        yield "wide pixels", f"has pixels of {info.pixel_aspect}; it is shown at {info.width}x{info.height}"
    yield from seen.findings()


class _Seen:
    """What decoded frames have in common."""

    def __init__(self) -> None:
        self.count = 0
        self._first: tuple[int, int] | None = None
        self._change = ""
        self._rotation = 0
        self._interlaced = 0

    def add(self, number: int, frame: VideoFrame) -> None:
        size = (frame.width, frame.height)
        self._first = self._first or size
        if size != self._first and not self._change:
            first = "x".join(map(str, self._first))
            self._change = f"changes size from {first} to {frame.width}x{frame.height} at frame {number}"
        self.count += 1
        self._rotation = self._rotation or 90 * quarter_turns(frame)
        self._interlaced += frame.interlaced_frame

    def findings(self) -> Iterator[tuple[str, str]]:
        if self._rotation:
            turn = {90: "a quarter turn", 180: "half a turn", 270: "a quarter turn"}[self._rotation]
            yield "rotated", f"carries {turn}"
        if self._interlaced:
            yield "interlaced", f"holds fields in {self._interlaced} of {self.count} frames"
        if self._change:
            yield "changing size", self._change
        if self._first and any(side % 2 for side in self._first):
            yield "odd size", f"is {'x'.join(map(str, self._first))}"


def _check_one(part: Part, index: int, least: int, alive: Callable[[], None]) -> Iterator[tuple[str, str]]:
    try:
        encoded = part.fetch(index)
    except BadVideo as error:
        yield error.kind, str(error)
        return
    yield from check(encoded, least=least, alive=alive)


def in_words(result: Mapping[str, Any]) -> str:
    """`validate`'s answer for people."""
    kinds = collections.defaultdict(list)
    for entry in result["found"]:
        kinds[entry["kind"]].append(entry)
    counts = ", ".join(f"{result[kind]} {kind}" for kind in UNREADABLE)
    lines = [f"{result['videos']} videos, {counts}"]
    for kind, entries in sorted(kinds.items(), key=lambda item: item[0] not in UNREADABLE):
        lines.append(f"{kind}: {len(entries)}" + (f" ({ADVICE[kind]})" if kind in UNREADABLE else ""))
        lines += [f"  {entry['key']}: {entry['reason']}" for entry in entries[:_SHOWN]]
        lines += [f"  … and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
    return "\n".join(lines)
