"""Label propagation: the labels of a video's first frame, carried through it by the similarity of frozen features.

The protocol is that of the public evaluations of contrastive random walks (VideoWalk) and CropMAE. Nothing is trained.
"""

import dataclasses
import functools
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array

from vmae_jax.eval import correspondence, joints, reconstruction
from vmae_jax.eval.collect import About, Results, whole
from vmae_jax.eval.tracking import Scores, colour, marked, scores_of
from vmae_jax.registry import register
from vmae_jax.resampling import resized
from vmae_jax.types import Batch, Carried, Method, Params, Pictures

__all__ = ["Propagation", "propagation"]

LABELS = 16  # labels are padded to a multiple of this, so that videos of few objects share a program
MULTIPLE = 64  # of the short side, where only the long one is given
FRAMES = 8  # of a picture


class Annotated(Protocol):
    """A video with its annotations (`data.sequences.Annotated`)."""

    key: str
    length: int
    picture: Callable[[int], np.ndarray]
    labels: Callable[[int], np.ndarray] | None
    points: np.ndarray | None


class _Start(NamedTuple):
    """What a video begins with: the size of its frames and their tokens, the number of labels, those of frame 0."""

    size: tuple[int, int]
    labels: Array
    objects: list[int]


@dataclasses.dataclass(frozen=True)
class Propagation:
    """See `propagation`."""

    sequences: Any
    size: tuple[int, ...]
    temperature: float
    topk: int
    radius: float
    context: int
    layer: int | None
    pictures: int

    def check(self, method: Method, params: Params, batch: Batch, carried: Carried) -> None:
        """Trace the features over shapes; raise ValueError if the method has none of frames, or the size is wrong."""
        del batch, carried
        compute = self._features(method)
        size = self.size if len(self.size) == 2 else (MULTIPLE, self.size[0])
        frame = jax.ShapeDtypeStruct((1, *size, 3), np.uint8)
        y, x = jax.eval_shape(compute, params, frame).shape[1:3]
        if self.topk > y * x:
            raise ValueError(f"topk={self.topk}: a frame of {size[0]}x{size[1]} pixels has {y * x} tokens")

    def __call__(
        self, method: Method, params: Params, sequences: Iterable[Annotated], about: About | None = None
    ) -> Results:
        """Return the metrics of the benchmark's task, a table of its videos, and pictures of the first ones."""
        about = about or About()
        task: str = getattr(sequences, "task")  # noqa: B009 - of the benchmark
        scores = scores_of(task, getattr(sequences, "classes", ()))
        files: dict[str, bytes] = {}
        for number, video in enumerate(sequences):
            frames = self._video(method, params, video, task, scores, about)
            if number < self.pictures:
                files[f"masks_{number:02d}.png"] = _sheet(video, frames)
            else:
                for _ in frames:
                    pass
        return Results(scores.metrics(), {"videos.csv": scores.table()}, files)

    def _video(
        self, method: Method, params: Params, video: Annotated, task: str, scores: Scores, about: About
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Score a video frame by frame; yield each frame with its labels as coloured pictures, truth and found."""
        memory, start, step = None, None, self._step(about)
        for number, (picture, features) in enumerate(self._frames(method, params, video, about)):
            if start is None or memory is None:
                start = self._start(video, picture, task, features.shape[:2])
                found, memory = start.labels, correspondence.begin(features, start.labels, self.context)
            else:
                found, memory = step(memory, features)
            if task == "joints":
                assert video.points is not None
                place = joints.places(np.asarray(found), video.points.shape[1], picture.shape[:2])
                scores.add(video.key, number, video.length, video.points[number], place, start.objects)
                yield marked(picture, video.points[number]), marked(picture, place)
            else:
                assert video.labels is not None
                shown = np.asarray(correspondence.up(found, size=start.size))
                shown = resized(shown, *picture.shape[:2], nearest=True)
                truth = video.labels(number)
                scores.add(video.key, number, video.length, truth, shown, start.objects)
                yield colour(picture, truth), colour(picture, shown)

    def _start(self, video: Annotated, first: np.ndarray, task: str, grid: Any) -> _Start:
        """Return what a video begins with."""
        size = self._size(first.shape[:2])
        if task == "joints":
            assert video.points is not None
            count = _padded(1 + video.points.shape[1])
            return _Start(size, jax.numpy.asarray(joints.maps(video.points[0], grid, first.shape[:2], count)), [])
        assert video.labels is not None
        labels = video.labels(0)
        count = _padded(1 + int(labels.max()))
        labels = resized(labels, *size, nearest=True)
        return _Start(size, correspondence.down(labels, count=count, grid=grid), np.unique(video.labels(0)).tolist())

    def _frames(
        self, method: Method, params: Params, video: Annotated, about: About
    ) -> Iterator[tuple[np.ndarray, Array]]:
        """Yield each frame with its features, [y x d], which are computed for as many at once as the devices share."""
        carried, state = method.frame_states if self.layer is None else None, None
        if carried is None:
            compute = about.programs((method.frame_features, self.layer, "frames"), self._features(method))
        else:  # each frame depends on those before it, so nothing is shared by devices
            compute = about.programs((carried, "states"), carried, alone=True)
        for first in range(0, video.length, about.rows):
            numbers = range(first, min(first + about.rows, video.length))
            about.alive(f"{video.key}, frame {first + 1} of {video.length}")
            pictures = [video.picture(number) for number in numbers]
            scaled = [resized(one, *self._size(one.shape[:2])) for one in pictures]
            scaled += scaled[-1:] * (about.rows - len(scaled))
            found = compute(params, np.stack(scaled), *(() if state is None else (state,)))
            if carried is not None:
                found, states = found
                state = states[-1]
            yield from zip(pictures, whole(found), strict=False)

    def _features(self, method: Method) -> Callable[[Params, Array], Array]:
        compute = method.frame_features
        if compute is None:
            raise ValueError("the method has no features of single frames (Method.frame_features)")
        return lambda params, frames: compute(params, frames, layer=self.layer)

    def _step(self, about: About) -> Callable[..., Any]:
        options = {"temperature": self.temperature, "topk": self.topk, "radius": self.radius}
        return about.programs(
            (correspondence.step, *options.values()), functools.partial(correspondence.step, **options), alone=True
        )

    def _size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return the height and width that frames of a shape are scaled to."""
        if len(self.size) == 2:
            return self.size[0], self.size[1]
        [long], short = self.size, min(shape) * self.size[0] // max(shape)
        short = max(MULTIPLE, short // MULTIPLE * MULTIPLE)
        return (short, long) if shape[1] > shape[0] else (long, short)


@register("evaluator", sequences="sequences")
def propagation(
    sequences: Any,
    size: Sequence[int] = (480, 880),
    temperature: float = 0.7,
    topk: int = 7,
    radius: float = 20.0,
    context: int = 20,
    layer: int | None = None,
    pictures: int = 4,
) -> Propagation:
    """Label propagation with frozen features.

    The section's own data are not read.

    Args:
      sequences: annotated videos, such as `data.sequences.davis`. Their task determines the metrics.
      size: height and width that frames are scaled to; or the long side, the short one then follows, rounded down to a
        multiple of 64.
      temperature: of the softmax over the similarities of the chosen tokens.
      topk: tokens of earlier frames that each token takes its labels from.
      radius: in tokens; farther ones are chosen from the first frame only.
      context: newest frames that labels come from, beside the first.
      layer: the block whose output is taken; None is the last.
      pictures: videos that are drawn.

    Raises:
      ValueError: if a number is out of range.
    """
    if len(size) not in (1, 2) or min(size) < 1:
        raise ValueError(f"size={list(size)}: height and width, or the long side")
    if temperature <= 0 or radius <= 0 or min(topk, context) < 1 or pictures < 0:
        raise ValueError("temperature and radius must be above 0, topk and context at least 1, pictures at least 0")
    return Propagation(sequences, tuple(size), temperature, topk, radius, context, layer, pictures)


def _padded(count: int) -> int:
    return math.ceil(count / LABELS) * LABELS


def _sheet(video: Annotated, frames: Iterator[tuple[np.ndarray, np.ndarray]]) -> bytes:
    """Return a PNG of some frames of a video with their labels, truth above what was found."""
    wanted = set(np.linspace(0, video.length - 1, min(FRAMES, video.length)).round().astype(int).tolist())
    kept = [pair for number, pair in enumerate(frames) if number in wanted]
    truth, found = (np.stack(row)[None] for row in zip(*kept, strict=True))
    rows: dict[str, Any] = {"truth": truth, "propagated": found}
    buffer = io.BytesIO()
    sheet = reconstruction.draw(Pictures.of(rows), videos=[video.key], frames=FRAMES)
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
