"""Frames and their time stamps."""

import re
from collections.abc import Iterator

from av.video.frame import VideoFrame

__all__ = ["REORDER", "ascending", "seconds", "stamped"]

REORDER = 8  # frames by which damaged time stamps may be out of order


def ascending(frames: Iterator[tuple[int, VideoFrame]], first: int) -> Iterator[tuple[int, VideoFrame]]:
    """Frames by ascending number from `first`; one is held back only while an earlier one may still come."""
    waiting: dict[int, VideoFrame] = {}
    expected = first
    for number, frame in frames:
        if number >= expected:
            waiting[number] = frame
        while waiting and (expected in waiting or len(waiting) > REORDER):
            number = min(waiting)
            yield number, waiting.pop(number)
            expected = number + 1
    for number in sorted(waiting):
        yield number, waiting[number]


def stamped(frames: Iterator[VideoFrame]) -> Iterator[tuple[int, VideoFrame]]:
    for frame in frames:
        if frame.pts is not None:
            yield frame.pts, frame


def seconds(clock: str) -> float | None:
    """Seconds of a tag such as "00:01:02.500000000"; None when it is no such tag."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", clock.strip())
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None
