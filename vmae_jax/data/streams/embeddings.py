"""Features of a video that were computed before, such as the files that `vmae features` writes."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vmae_jax.data.order import generator
from vmae_jax.data.streams.core import ArraySpec, Clip, ClipShape, FileStream, Recording
from vmae_jax.data.streams.tables import LIMIT, read_arrays
from vmae_jax.data.video import BadVideo
from vmae_jax.registry import register

__all__ = ["Embeddings", "embeddings"]


@register("stream", smoke={"width": 7, "length": 16, "of": "state"})  # of `data.source.drawn_states`
def embeddings(
    width: int, length: int = 256, part: str = "video", random: bool = True, of: str | None = None
) -> "Embeddings":
    """Vectors in the order of time, float32 [length width], from .npz files as `vmae features` writes them.

    NAME_mask, bool [length], has which of them there are: shorter sequences are padded with zeros at the end.
    NAME_seconds, float32 [length 2], has when each begins and ends. NAME_valid is False where a video has no such
    file, or none of its vectors is of the part.

    Args:
      width: numbers of a vector.
      length: vectors at most.
      part: "video": all of them; "clip": those whose seconds overlap the time that the clip shows.
      random: of a sequence that is longer, a run drawn at random; False takes the first.
      of: what of the things beside a video they are, by name; by default what has the stream's name.
    """
    if length < 1 or width < 1 or part not in ("video", "clip"):
        raise ValueError(f"length={length}, width={width}, part={part!r}: positive numbers, and 'video' or 'clip'")
    return Embeddings(length, width, part, random, of)


@dataclasses.dataclass(frozen=True)
class Embeddings(FileStream):
    """See `embeddings`."""

    length: int
    width: int
    part: str
    random: bool
    of: str | None = None
    limit = LIMIT

    def fields(self, shape: ClipShape) -> Mapping[str, ArraySpec]:
        vectors, there = ArraySpec((self.length, self.width), np.float32), ArraySpec((self.length,), np.bool_)
        return {"": vectors, "_mask": there, "_seconds": ArraySpec((self.length, 2), np.float32)}

    def parse(
        self, data: bytes, recording: Recording, clips: Sequence[Clip], out: Mapping[str, np.ndarray]
    ) -> Sequence[bool]:
        found = read_arrays(data, ["features", "seconds"])
        vectors, seconds = found["features"], found["seconds"]
        if vectors.ndim != 2 or vectors.shape[1] != self.width or seconds.shape != (len(vectors), 2):
            raise BadVideo(f"has features {vectors.shape} and seconds {seconds.shape}, not [n {self.width}] and [n 2]")
        if not np.isfinite(vectors).all() or not np.isfinite(seconds).all():
            raise BadVideo("has numbers that are not finite")
        for row, clip in enumerate(clips):
            begin, end = (recording.side_seconds(moment) for moment in clip.span)
            overlaps = (seconds[:, 0] < end) & (seconds[:, 1] >= begin)
            chosen = np.flatnonzero(overlaps) if self.part == "clip" else np.arange(len(vectors))
            first = self._first(len(chosen), clip)
            chosen = chosen[first : first + self.length]
            out[""][row, : len(chosen)] = vectors[chosen]
            out["_seconds"][row, : len(chosen)] = seconds[chosen]
            out["_mask"][row, : len(chosen)] = True
        return np.any(out["_mask"], axis=1)

    def _first(self, count: int, clip: Clip) -> int:
        room = count - self.length
        return int(generator(np.asarray(clip.seed)).integers(room + 1)) if self.random and room > 0 else 0
