"""Labelled moments of a video: which class is shown from when to when."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vmae_jax.data.streams.core import ArraySpec, Clip, ClipShape, FileStream, Recording
from vmae_jax.data.streams.tables import LIMIT, read_columns
from vmae_jax.data.video import BadVideo
from vmae_jax.registry import register

__all__ = ["FrameLabels", "Segments", "frame_labels", "read_spans", "segments"]


def read_spans(data: bytes, label: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the spans of labelled moments, float64 [n 2], and their classes, float64 [n].

    Args:
      data: of a table with the columns `begin` and `end`, in seconds.
      label: the column of the classes; None reads none, and all are 0.

    Raises:
      BadVideo: if it is no such table, a moment ends before it begins, or a class is no class number.
    """
    found = read_columns(data, ["begin", "end", *([label] if label else [])])
    spans, labels = np.stack([found["begin"], found["end"]], 1), found[label] if label else np.zeros(len(found["end"]))
    if (spans[:, 1] <= spans[:, 0]).any():
        raise BadVideo("has a segment that ends before it begins")
    if (labels != np.floor(labels)).any() or (labels < 0).any() or (labels >= 1 << 31).any():
        raise BadVideo("has a label that is no class number")
    return spans, labels


@register("stream")
def segments(count: int = 256, of: str | None = None) -> "Segments":
    """All moments of the video, whatever the clip shows, float32 [count 2]: the seconds of begin and end.

    NAME_mask, bool [count], has which of them there are; NAME_label, int32 [count], their classes, -1 past their end;
    NAME_clip, float32 [2], when the clip itself begins and ends, on the same clock. They are read from CSV or .npz with
    the columns `begin`, `end` and `label`, a class number. NAME_valid is False where a video has no such file; a file
    without rows is a video of which every moment is background.

    Args:
      count: moments of a video at most; a video with more counts as broken.
      of: what of the things beside a video they are, by name; by default what has the stream's name.
    """
    if count < 1:
        raise ValueError(f"count={count}: it must be at least 1")
    return Segments(count, of)


@dataclasses.dataclass(frozen=True)
class Segments(FileStream):
    """See `segments`."""

    count: int
    of: str | None = None
    limit = LIMIT

    def fields(self, shape: ClipShape) -> Mapping[str, ArraySpec]:
        spans, labels = ArraySpec((self.count, 2), np.float32), ArraySpec((self.count,), np.int32)
        there = ArraySpec((self.count,), np.bool_)
        return {"": spans, "_mask": there, "_label": labels, "_clip": ArraySpec((2,), np.float32)}

    def parse(
        self, data: bytes, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]
    ) -> Sequence[bool]:
        spans, labels = read_spans(data, "label")
        if len(spans) > self.count:
            raise BadVideo(f"has {len(spans)} segments, more than count={self.count}")
        out["_label"][...] = -1
        for row, clip in enumerate(clips):
            out[""][row, : len(spans)] = spans
            out["_label"][row, : len(spans)] = labels
            out["_mask"][row, : len(spans)] = True
            out["_clip"][row] = [recording.side_seconds(moment) for moment in clip.span]
        return [True] * len(clips)


@register("stream", smoke=lambda given: {"classes": max(given["classes"], 5), "label": "label"})  # of drawn clips
def frame_labels(classes: int, label: str = "label", of: str | None = "segments") -> "FrameLabels":
    """Which classes each frame of a clip shows, bool [frames classes]: those of the moments that it belongs to.

    The frame at the begin of a moment belongs to it, the one at its end does not. They are read from CSV or .npz with
    the columns `begin` and `end`, in seconds, and one of class numbers. NAME_valid is False where a video has no such
    file; a file without rows is a video of which every frame is background.

    Args:
      classes: how many there are; a video with another class counts as broken.
      label: the column of the class numbers.
      of: what of the things beside a video they are, by name; None is what has the stream's name.
    """
    if classes < 1:
        raise ValueError(f"classes={classes}: there must be at least 1")
    return FrameLabels(classes, label, of)


@dataclasses.dataclass(frozen=True)
class FrameLabels(FileStream):
    """See `frame_labels`."""

    classes: int
    label: str
    of: str | None
    limit = LIMIT

    def fields(self, shape: ClipShape) -> Mapping[str, ArraySpec]:
        return {"": ArraySpec((shape.frames, self.classes), np.bool_)}

    def parse(
        self, data: bytes, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]
    ) -> Sequence[bool]:
        spans, labels = read_spans(data, self.label)
        if (labels >= self.classes).any():
            raise BadVideo(f"has class {int(labels.max())}, but there are {self.classes} classes")
        for row, clip in enumerate(clips):
            moments = recording.side_seconds(clip.seconds)[:, None]
            frame, segment = np.nonzero((spans[:, 0] <= moments) & (moments < spans[:, 1]))
            out[""][row, frame, labels[segment].astype(int)] = True
        return [True] * len(clips)
