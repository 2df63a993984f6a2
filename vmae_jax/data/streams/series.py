"""Readings of sensors, such as accelerations and angular velocities, at the times of a clip."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vmae_jax.data.streams.core import ArraySpec, Clip, ClipShape, FileStream, Recording
from vmae_jax.data.streams.tables import LIMIT, read_columns
from vmae_jax.data.video import BadVideo
from vmae_jax.registry import register

__all__ = ["Series", "series"]


@register("stream")
def series(
    columns: Sequence[str],
    samples: int,
    rate: float | None = None,
    interpolation: str = "linear",
    align: str = "center",
    time: str = "time",
    of: str | None = None,
) -> "Series":
    """Numbers that change over time, float32 [samples columns]; NAME_mask, bool [samples], where there are readings.

    They are read from CSV with a first line of column names, or from .npz with an array for each column. NAME_valid
    is False where there is no file, or no reading around the clip.

    Args:
      columns: names of the columns.
      samples: how many moments.
      rate: moments a second; by default they are spread evenly over the time that the clip shows.
      interpolation: "linear", or "nearest" reading.
      align: with a rate, the moments have the clip's middle in their middle ("center"), or begin with it ("start").
      time: column of the seconds, ascending, counted from the beginning of the video.
      of: what of the things beside a video they are, by name; by default what has the stream's name.
    """
    if not columns or isinstance(columns, str) or samples < 1 or (rate is not None and rate <= 0):
        raise ValueError(f"columns={columns!r}, samples={samples}, rate={rate}: a list of names, and positive numbers")
    if interpolation not in ("linear", "nearest") or align not in ("center", "start"):
        raise ValueError(
            f"interpolation={interpolation!r}, align={align!r}: 'linear' or 'nearest', 'center' or 'start'"
        )
    return Series(tuple(columns), samples, rate, interpolation, align, time, of)


@dataclasses.dataclass(frozen=True)
class Series(FileStream):
    """See `series`."""

    columns: tuple[str, ...]
    samples: int
    rate: float | None
    interpolation: str
    align: str
    time: str
    of: str | None = None
    limit = LIMIT

    def fields(self, shape: ClipShape) -> Mapping[str, ArraySpec]:
        values = ArraySpec((self.samples, len(self.columns)), np.float32)
        return {"": values, "_mask": ArraySpec((self.samples,), np.bool_)}

    def parse(
        self, data: bytes, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]
    ) -> Sequence[bool]:
        found = read_columns(data, [self.time, *self.columns])
        times, values = found[self.time], np.stack([found[name] for name in self.columns], 1)
        if (np.diff(times) < 0).any():
            raise BadVideo(f"has times in {self.time!r} that do not ascend")
        if not len(times):
            return [False] * len(clips)
        for row, clip in enumerate(clips):
            at = recording.side_seconds(self._moments(clip))
            known = (at >= times[0]) & (at <= times[-1])
            out[""][row] = np.where(known[:, None], self._at(at, times, values), 0)
            out["_mask"][row] = known
        return np.any(out["_mask"], axis=1)

    def _moments(self, clip: Clip) -> np.ndarray:
        begin, end = clip.span
        if self.rate is None:
            return begin + (np.arange(self.samples) + 0.5) * (end - begin) / self.samples
        first = begin if self.align == "start" else (begin + end - (self.samples - 1) / self.rate) / 2
        return first + np.arange(self.samples) / self.rate

    def _at(self, at: np.ndarray, times: np.ndarray, values: np.ndarray) -> np.ndarray:
        if self.interpolation == "linear":
            return np.stack([np.interp(at, times, column) for column in values.T], 1)
        after = np.clip(np.searchsorted(times, at), 1, max(len(times) - 1, 1))
        nearest = np.where(at - times[after - 1] <= times[np.minimum(after, len(times) - 1)] - at, after - 1, after)
        return values[np.minimum(nearest, len(times) - 1)]
