"""Scores of labels that were carried through videos, and pictures of them."""

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from vmae_jax.eval import joints, segmentation

__all__ = ["Classes", "Joints", "Objects", "Scores", "colour", "marked", "scores_of"]

_THRESHOLDS = (0.1, 0.2)  # of PCK


class Scores(abc.ABC):
    """What frames add up to."""

    @abc.abstractmethod
    def add(self, key: str, number: int, length: int, truth: np.ndarray, found: np.ndarray, known: list[int]) -> None:
        """Add a frame.

        Args:
          key: the name of its video.
          number: of the frame.
          length: frames of the video.
          truth: the annotation.
          found: of the same shape.
          known: labels of the first frame.
        """

    @abc.abstractmethod
    def metrics(self) -> dict[str, float]:
        """Return the metrics."""

    @abc.abstractmethod
    def table(self) -> list[list[Any]]:
        """Return a row for each video or object, beginning with the names of the columns."""


class Objects(Scores):
    """J and F as DAVIS 2017 has them: of each object, without the first and the last frame, averaged over objects."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, int], list[tuple[float, float]]] = {}

    def add(self, key: str, number: int, length: int, truth: np.ndarray, found: np.ndarray, known: list[int]) -> None:
        if length < 3:
            raise ValueError(f"{key} has {length} frames; J and F are of those between the first and the last")
        if 0 < number < length - 1:
            for label in known:
                if label:
                    pair = truth == label, found == label
                    values = self._values.setdefault((key, label), [])
                    values.append((segmentation.jaccard(*pair), segmentation.boundary(*pair)))

    def metrics(self) -> dict[str, float]:
        rows = np.array([row[2:] for row in self.table()[1:]], float)
        if not len(rows):
            raise ValueError("there is nothing to evaluate: no video has an object in its first frame")
        names = ("j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay")
        found = dict(zip(names, rows.mean(axis=0).tolist(), strict=True))
        return {"jf_mean": (found["j_mean"] + found["f_mean"]) / 2} | found | {"objects": float(len(rows))}

    def table(self) -> list[list[Any]]:
        rows: list[list[Any]] = [["video", "object", "J mean", "J recall", "J decay", "F mean", "F recall", "F decay"]]
        for (key, label), values in self._values.items():
            j, f = (segmentation.statistics(np.array(column)) for column in zip(*values, strict=True))
            rows.append([key, label, *j, *f])
        return rows


class Classes(Scores):
    """The mean intersection over union of classes, over all pixels of all frames, the first ones included.

    Args:
      names: of the classes.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._counts = np.zeros((len(names), len(names)), np.int64)

    def add(self, key: str, number: int, length: int, truth: np.ndarray, found: np.ndarray, known: list[int]) -> None:
        del number, length, known
        if found.max() >= len(self._names):
            raise ValueError(f"{key} has label {found.max()} in its first frame; there are {len(self._names)} classes")
        self._counts += segmentation.confusion(truth, found, len(self._names))

    def metrics(self) -> dict[str, float]:
        if not self._counts.any():
            raise ValueError("there is nothing to evaluate: no pixel has a class")
        right = float(np.diag(self._counts).sum() / self._counts.sum())
        return {"miou": float(np.nanmean(segmentation.iou(self._counts))), "pixel_accuracy": right}

    def table(self) -> list[list[Any]]:
        found = segmentation.iou(self._counts).tolist()
        return [["class", "IoU"], *([name, one] for name, one in zip(self._names, found, strict=True))]


class Joints(Scores):
    """PCK: the share of joints within a part of the person's size, without the first frames."""

    def __init__(self) -> None:
        self._apart: dict[str, list[np.ndarray]] = {}

    def add(self, key: str, number: int, length: int, truth: np.ndarray, found: np.ndarray, known: list[int]) -> None:
        del length, known
        if number:
            self._apart.setdefault(key, []).append(joints.distances(truth[None], found[None])[0])

    def metrics(self) -> dict[str, float]:
        if not self._apart:
            raise ValueError("there is nothing to evaluate: no video has a second frame")
        apart = np.concatenate([np.stack(rows) for rows in self._apart.values()])
        shares = {f"pck_{threshold:g}": joints.pck(apart, threshold) for threshold in _THRESHOLDS}
        return shares | {"lost": float(np.isnan(apart).mean()), "videos": float(len(self._apart))}

    def table(self) -> list[list[Any]]:
        rows: list[list[Any]] = [["video", *(f"PCK {threshold:g}" for threshold in _THRESHOLDS)]]
        for key, apart in self._apart.items():
            rows.append([key, *(joints.pck(np.stack(apart), threshold) for threshold in _THRESHOLDS)])
        return rows


def scores_of(task: str, classes: Sequence[str]) -> Scores:
    """Return the scores of a task, "objects", "classes" or "joints"."""
    if task == "classes":
        return Classes(classes)
    return {"objects": Objects, "joints": Joints}[task]()


def colour(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return a picture, uint8 [h w 3], with each label but 0 in a colour of its own."""
    mixed = (picture.astype(np.uint16) + 2 * _COLOURS[labels % len(_COLOURS)]) // 3
    return np.where((labels > 0)[..., None], mixed, picture).astype(np.uint8)


def marked(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return a picture with a dot at each point (x, y) that is no NaN."""
    y, x = np.ogrid[: picture.shape[0], : picture.shape[1]]
    radius, shown = max(2.0, min(picture.shape[:2]) / 60), picture.copy()
    for number, (across, down) in enumerate(points):
        shown[(x - across) ** 2 + (y - down) ** 2 <= radius**2] = _COLOURS[1 + number % (len(_COLOURS) - 1)]
    return shown


def _palette(count: int) -> np.ndarray:
    """Colours, the first black, of which neighbours differ (the bits of a number in turn to red, green and blue)."""
    numbers = np.arange(count)
    channels = [sum(((numbers >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
    return np.stack(channels, axis=1).astype(np.uint16)


_COLOURS = _palette(64)
