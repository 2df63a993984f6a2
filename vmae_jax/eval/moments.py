"""Finding moments in videos with frozen features: a linear probe on windows, whose scores become segments."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vmae_jax.eval import detection
from vmae_jax.eval.collect import About, Programs, Results, whole
from vmae_jax.eval.detection import Moments
from vmae_jax.eval.probe import fit_many
from vmae_jax.eval.scores import finite
from vmae_jax.registry import register
from vmae_jax.types import Batch, Method, Params

__all__ = ["Found", "MomentsProbe", "Windows", "moments", "spans_of"]

LEVELS = np.arange(0.1, 0.95, 0.1)  # of the best score of a class in a video, at which segments are cut
OVERLAP = 0.5  # of two segments found of one class, at most


class Windows(NamedTuple):
    """The windows of all videos.

    Attributes:
      features: [n d].
      video: the number of each one's video, [n].
      span: its begin and end in seconds, [n 2].
      truth: the moments of the videos.
    """

    features: np.ndarray
    video: np.ndarray
    span: np.ndarray
    truth: Moments


class Found(NamedTuple):
    """What `MomentsProbe.found` returns: segments, and the number of classes."""

    segments: Moments
    classes: int


@dataclasses.dataclass(frozen=True)
class MomentsProbe:
    """See `moments`."""

    train: Any
    penalty: float
    iterations: int
    layer: int | None
    overlaps: tuple[float, ...]
    times: tuple[int, ...]
    stream: str

    def __call__(
        self, method: Method, params: Params, batches: Iterable[Batch], train: Iterable[Batch],
        about: About | None = None,
    ) -> Results:  # fmt: skip
        """Return mAP, the average over overlaps, mAP@T and R@Kx@T of each, and the numbers of videos and moments."""
        programs = (about or About()).programs
        known = self._windows(method, params, train, programs, "training videos")
        asked = self._windows(method, params, batches, programs, "videos")
        if not len(asked.truth.video) or not len(known.truth.video):
            raise ValueError(f"none of the videos has a moment: {self.stream} is empty in all of them")
        segments, classes = self.found(known, asked)
        rows: list[list[Any]] = [["class", "moments", *(f"AP@{least:g}" for least in self.overlaps)]]
        for label in range(classes):
            truth, own = (one.chosen(one.label == label) for one in (asked.truth, segments))
            scores = [detection.average_precision(own, truth, least) for least in self.overlaps]
            rows.append([label, len(truth.video), *scores])
        table = np.asarray([row[2:] for row in rows[1:] if row[1]])
        numbers = {"mAP": float(table.mean())}
        numbers |= {f"mAP@{least:g}": float(table[:, i].mean()) for i, least in enumerate(self.overlaps)}
        for least in self.overlaps:
            for times in self.times:
                numbers[f"R@{times}x@{least:g}"] = detection.recall(segments, asked.truth, times, least)
        numbers |= {"videos": float(len(np.unique(asked.video))), "moments": float(len(asked.truth.video))}
        return Results(numbers, {"moments.csv": rows})

    def found(self, known: Windows, asked: Windows) -> Found:
        """Return the segments that a probe of the training videos' windows finds in other videos."""
        classes = int(max(known.truth.label.max(), asked.truth.label.max())) + 1
        mean, spread = known.features.mean(axis=0), known.features.std(axis=0) + 1e-6
        x, y = ((one.features - mean) / spread for one in (known, asked))
        weights = fit_many(x, shown(known, classes), penalty=self.penalty, iterations=self.iterations)
        scores = 1 / (1 + np.exp(-np.clip(y @ weights["kernel"] + weights["bias"], -50, 50)))
        parts = []
        for video in np.unique(asked.video):
            own = np.flatnonzero(asked.video == video)
            own = own[np.argsort(asked.span[own].mean(axis=1), kind="stable")]
            for label in range(classes):
                spans, score = spans_of(scores[own, label], asked.span[own])
                every = np.full(len(score), video), spans, np.full(len(score), label), score
                parts.append(detection.suppressed(Moments(*every), OVERLAP))
        return Found(Moments.join(parts), classes)

    def check(self, method: Method, params: Params, spec: Batch, carried: Any) -> None:
        """Raise ValueError if the data have no moments."""
        del method, params, carried
        self._check_stream(spec)

    def _check_stream(self, spec: Batch) -> None:
        if f"{self.stream}_clip" not in spec:
            raise ValueError(
                f"the data have no stream {self.stream!r} of moments: set streams={{{self.stream!r}: "
                "call('data.streams.segments')} on the loaders"
            )

    def _windows(
        self, method: Method, params: Params, batches: Iterable[Batch], programs: Programs, of: str
    ) -> Windows:
        layer, name = self.layer, self.stream
        compiled = programs((method.features, layer, True), lambda p, b: method.features(p, b, layer=layer, pool=True))
        parts, truths = [], {}
        for batch in batches:
            self._check_stream(batch)
            there = whole(batch["valid"]).astype(bool) & whole(batch[f"{name}_valid"]).astype(bool)
            features, video = whole(compiled(params, batch))[there], whole(batch["index"])[there]
            mask, label, span = (whole(batch[f"{name}{end}"])[there] for end in ("_mask", "_label", ""))
            for row, number in enumerate(video.tolist()):
                if number not in truths:
                    own = mask[row].astype(bool)
                    every = np.full(own.sum(), number), span[row][own], label[row][own], np.ones(own.sum())
                    truths[number] = Moments(*every)
            parts.append((features.astype(np.float64), video, whole(batch[f"{name}_clip"])[there].astype(np.float64)))
        if not any(len(features) for features, _, _ in parts):
            raise ValueError(f"there is nothing to evaluate: none of the {of} has moments beside it that can be read")
        features, video, span = (np.concatenate(one) for one in zip(*parts, strict=True))
        finite(features, video, "the features", of)
        return Windows(features, video, span, Moments.join(list(truths.values())))


def shown(windows: Windows, classes: int) -> np.ndarray:
    """Return which classes are shown in the middle of each window, [n classes]."""
    middle = windows.span.mean(axis=1)
    truth = windows.truth
    during = (truth.span[None, :, 0] <= middle[:, None]) & (middle[:, None] < truth.span[None, :, 1])
    during &= windows.video[:, None] == truth.video[None]
    return np.minimum(during.astype(np.float32) @ np.eye(classes, dtype=np.float32)[truth.label], 1.0)


def spans_of(scores: np.ndarray, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the segments of one class in a video, [m 2], and their scores [m].

    The time between the middles of two windows belongs half to each. Windows in a row whose scores are at least a
    level form a segment, whose score is their mean; levels are shares of the best score.

    Args:
      scores: of the windows, in order of time.
      windows: their begins and ends.
    """
    middles = windows.mean(axis=1)
    edges = np.concatenate([windows[:1, 0], (middles[1:] + middles[:-1]) / 2, windows[-1:, 1]])
    found: dict[tuple[int, int], float] = {}
    for level in LEVELS * scores.max():
        inside = np.concatenate([[False], scores >= level, [False]])
        begins, ends = (np.flatnonzero(np.diff(inside.astype(int)) == side) for side in (1, -1))
        found |= {(int(a), int(b)): float(scores[a:b].mean()) for a, b in zip(begins, ends, strict=True)}
    spans = np.asarray([[edges[a], edges[b]] for a, b in found])
    long = spans[:, 1] > spans[:, 0]
    return spans[long], np.asarray(list(found.values()))[long]


@register("evaluator", train="loader")
def moments(
    train: Any,
    penalty: float = 1e-3,
    iterations: int = 100,
    layer: int | None = None,
    overlaps: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5),
    times: Sequence[int] = (1, 5),
    stream: str = "segments",
) -> MomentsProbe:
    """Temporal action detection on frozen features: mAP and recall at overlaps in time (intersection over union).

    A linear classifier of each class, fitted by L-BFGS, judges windows of the training videos by what their middle
    shows. Windows of other videos with high scores in a row become segments, and of overlapping ones the surest stay.

    Args:
      train: a `data.pipeline.loader` with several clips of each video, such as of `clips.multiview`, and the stream
        `data.streams.segments`; the section's own data are the test.
      penalty: weight of half the squared norm of the kernel.
      iterations: of L-BFGS.
      layer: the block whose output is taken; None is the last.
      overlaps: at which a segment that was found is right.
      times: how many segments are looked at for each true one, for recall (Ego4D's Kx).
      stream: name of the moments in the batch.

    Raises:
      ValueError: if a number is out of range.
    """
    if penalty < 0 or iterations < 1 or not overlaps or not all(0 < least <= 1 for least in overlaps):
        raise ValueError(
            f"penalty={penalty}, iterations={iterations}, overlaps={list(overlaps)}: at least 0; at least 1; above 0 "
            "and at most 1"
        )
    if not times or min(times) < 1:
        raise ValueError(f"times={list(times)}: at least one number, each at least 1")
    return MomentsProbe(train, penalty, iterations, layer, tuple(overlaps), tuple(times), stream)
