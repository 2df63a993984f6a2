"""Boxes in the frames of a clip: of people, faces or objects, moved with the crop."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vmae_jax.data.streams.core import ArraySpec, Clip, ClipShape, FileStream, Recording
from vmae_jax.data.streams.geometry import shown_boxes
from vmae_jax.data.streams.tables import LIMIT, read_columns
from vmae_jax.data.video import BadVideo
from vmae_jax.registry import register

__all__ = ["Boxes", "boxes"]

_CORNERS = ("x0", "y0", "x1", "y1")


@register("stream")
def boxes(
    count: int = 8, unit: str = "pixels", within: float = 0.05, least: float = 0.1, of: str | None = None
) -> "Boxes":
    """Boxes of each frame of a clip, float32 [frames count 4]: x0, y0, x1, y1 as shares of what the clip shows.

    NAME_mask, bool [frames count], has which of them there are; NAME_id, int32 [frames count], their numbers (of a
    person, an object or a class; -1 where there is no box). They are read from CSV or .npz with the columns `x0`,
    `y0`, `x1`, `y1`, a `time` in seconds or a `frame` number, and perhaps `id`. They follow the crop and its flip.
    NAME_valid is False where a video has no such file.

    Args:
      count: boxes of a frame at most; the first ones in the file are taken.
      unit: of the file, "pixels" of the video's picture or "shares" of its sides.
      within: seconds between a frame and the time of its boxes at most (of a file with times).
      least: share of a box that must be within the crop; what is outside is cut off.
      of: what of the things beside a video they are, by name; by default what has the stream's name.
    """
    if count < 1 or unit not in ("pixels", "shares") or within < 0 or not 0 <= least <= 1:
        raise ValueError(f"count={count}, unit={unit!r}, within={within}, least={least}: see data.streams.boxes")
    return Boxes(count, unit, within, least, of)


@dataclasses.dataclass(frozen=True)
class Boxes(FileStream):
    """See `boxes`."""

    count: int
    unit: str
    within: float
    least: float
    of: str | None = None
    geometric = True
    limit = LIMIT

    def fields(self, shape: ClipShape) -> Mapping[str, ArraySpec]:
        sides = (shape.frames, self.count)
        corners, there = ArraySpec((*sides, 4), np.float32), ArraySpec(sides, np.bool_)
        return {"": corners, "_mask": there, "_id": ArraySpec(sides, np.int32)}

    def parse(
        self, data: bytes, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]
    ) -> Sequence[bool]:
        found = read_columns(data, _CORNERS, ("frame", "time", "id"))
        if "frame" not in found and "time" not in found:
            raise BadVideo("has neither a column 'frame' nor 'time'")
        corners = np.stack([found[name] for name in _CORNERS], 1)
        numbers = found.get("id", np.full(len(corners), 0.0))
        if (np.abs(numbers) >= 1 << 31).any():
            raise BadVideo("has a number in 'id' that is too large")
        out["_id"][...] = -1
        for row, clip in enumerate(clips):
            shares = corners / (np.tile(clip.picture[::-1], 2) if self.unit == "pixels" else 1)
            moved, left = shown_boxes(clip, shares)
            for slot in range(len(clip.frames)):
                chosen = np.flatnonzero(
                    self._of_frame(recording, clip, slot, found) & (left > 0) & (left >= self.least)
                )
                chosen = chosen[: self.count]
                out[""][row, slot, : len(chosen)] = moved[chosen]
                out["_mask"][row, slot, : len(chosen)] = True
                out["_id"][row, slot, : len(chosen)] = numbers[chosen]
        return [True] * len(clips)

    def _of_frame(self, recording: Recording, clip: Clip, slot: int, found: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which boxes belong to a frame of a clip, bool [boxes]: of its number, or of the nearest time."""
        if "frame" in found:
            return found["frame"] == recording.side_frames(clip.frames)[slot]
        away = np.abs(found["time"] - recording.side_seconds(clip.seconds[slot]))
        if not len(away):
            return away > 0
        nearest = found["time"][np.argmin(away)]
        return (away <= self.within) & (np.abs(found["time"] - nearest) < 1e-6)
