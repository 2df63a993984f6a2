"""Multi-view testing: every clip and crop of a video votes, each video counts once.

The views are the data's: `data.clips.multiview` takes clips, `data.transforms.view_crop` with the
loader's `repeat` takes crops. The official test averages the softmax over all of them.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from vmae_jax.eval.collect import Found, Results, per_video
from vmae_jax.types import Batch, Method, Params

__all__ = ["Multiview", "average_precision", "calibration", "class_accuracy", "multiview"]

BINS = 15


@dataclasses.dataclass(frozen=True)
class Multiview:
    """See `multiview`."""

    label: str
    outputs: tuple[int, int] | None
    several: bool
    label_names: tuple[str, ...]

    def __call__(self, method: Method, params: Params, batches: Iterable[Batch]) -> Results:
        """Accuracies, calibration, and the tables videos.csv and classes.csv."""
        if method.predict is None:
            raise ValueError("multiview needs a method with logits; for features there are eval.knn and eval.probe")
        predict, part = method.predict, slice(*(self.outputs or (None,)))
        vote = jax.nn.sigmoid if self.several else jax.nn.softmax
        found = per_video(lambda p, b: vote(predict(p, b)[:, part]), params, batches, self.label)
        if found.label is None:
            return Results({"videos": float(len(found.index))}, {"videos.csv": self._videos(found)})
        return self._several(found) if self.several else self._one(found)

    def _one(self, found: Found) -> Results:
        label, scores = np.asarray(found.label), found.outputs
        classes = scores.shape[1]
        if label.ndim != 1 or label.min() < 0 or label.max() >= classes:
            raise ValueError(
                f"the data's {self.label} goes from {label.min()} to {label.max()}, the model has {classes} classes"
            )
        place = np.argsort(-scores, axis=1, kind="stable").argsort(axis=1)[np.arange(len(label)), label]
        counts, accuracy = class_accuracy(place == 0, label, classes)
        numbers = {
            "top1": float((place == 0).mean()),
            "top5": float((place < 5).mean()),
            "mean_class_accuracy": float(accuracy[counts > 0].mean()),
            "ece": calibration(scores.max(axis=1), place == 0),
            "videos": float(len(label)),
        }
        rows = [[i, self._name(i), int(counts[i]), round(float(accuracy[i]), 6)] for i in range(classes) if counts[i]]
        table = [["class", "name", "videos", "accuracy"], *rows]
        return Results(numbers, {"videos.csv": self._videos(found), "classes.csv": table})

    def _several(self, found: Found) -> Results:
        truth = np.asarray(found.label)
        if truth.shape != found.outputs.shape:
            raise ValueError(f"several classes a video need labels of shape {list(found.outputs.shape)}")
        each = np.array([average_precision(s, t) for s, t in zip(found.outputs.T, truth.T, strict=True)])
        rows = [[i, self._name(i), int(truth[:, i].sum()), float(value)] for i, value in enumerate(each)]
        table = [["class", "name", "videos", "average_precision"], *rows]
        numbers = {"map": float(np.nanmean(each)), "videos": float(len(truth))}
        return Results(numbers, {"videos.csv": self._videos(found), "classes.csv": table})

    def _videos(self, found: Found) -> list[list[Any]]:
        """The five classes that each video looks most like; `video` is its number in the source."""
        best = np.argsort(-found.outputs, axis=1, kind="stable")[:, :5]
        k = range(best.shape[1])
        table: list[list[Any]] = [["video", "label", *(f"class{i + 1}" for i in k), *(f"score{i + 1}" for i in k)]]
        for row, number in enumerate(found.index.tolist()):
            known = "" if found.label is None or self.several else int(found.label[row])
            scores = [round(float(found.outputs[row, c]), 6) for c in best[row]]
            table.append([number, known, *best[row].tolist(), *scores])
        return table

    def _name(self, number: int) -> str:
        return self.label_names[number] if number < len(self.label_names) else ""


def multiview(
    label: str = "label",
    outputs: Sequence[int] | None = None,
    several: bool = False,
    label_names: Sequence[str] = (),
) -> Multiview:
    """The official test: scores averaged over all views of a video.

    Gives top1, top5, mean_class_accuracy, ece (the expected calibration error of the averaged
    scores), or map where videos have several classes; `vmae eval` writes a table of the videos
    and one of the classes beside them.

    Args:
      label: the key of the batch that holds the labels.
      outputs: the first output and the one after the last, for one head of several.
      several: sigmoids and mean average precision instead of a softmax and accuracy.
      label_names: of the classes, for the table.

    Raises:
      ValueError: outputs that are no range.
    """
    if outputs is not None and not (len(outputs) == 2 and 0 <= outputs[0] < outputs[1]):
        raise ValueError(f"outputs={list(outputs)}: the first, and the one after the last")
    chosen = None if outputs is None else (outputs[0], outputs[1])
    return Multiview(label, chosen, several, tuple(label_names))


def class_accuracy(hit: np.ndarray, label: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Videos of each class, and the share of them that is right (0 where there is none)."""
    counts = np.bincount(label, minlength=classes)
    return counts, np.bincount(label, weights=hit, minlength=classes) / np.maximum(counts, 1)


def calibration(confidence: np.ndarray, hit: np.ndarray) -> float:
    """The expected calibration error in 15 equal bins (Guo et al. 2017)."""
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gap = np.bincount(bins, weights=hit - confidence, minlength=BINS)
    return float(np.abs(gap).sum() / len(hit))


def average_precision(score: np.ndarray, truth: np.ndarray) -> float:
    """The mean precision at each positive, best score first; NaN where there is no positive.

    Equal scores are one step, so that their order does not matter.
    """
    positives = float(truth.sum())
    if not positives:
        return float("nan")
    order = np.argsort(-score, kind="stable")
    score, hits = score[order], np.cumsum(truth[order])
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # of each run of equal scores
    precision, recall = hits[last] / (last + 1), hits[last] / positives
    return float((precision * np.diff(recall, prepend=0.0)).sum())
