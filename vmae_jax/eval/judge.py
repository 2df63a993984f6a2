"""The metrics, tables and pictures of one head."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vmae_jax.eval import figures, scores
from vmae_jax.eval.collect import Results
from vmae_jax.types import Output

__all__ = ["jointly", "judge"]

CONFUSIONS = 1000  # maximum of pairs of classes in the table, the most frequent first
DRAWN = 1000  # maximum of classes in a picture, one pixel each


def judge(
    head: Output, outputs: np.ndarray, truth: np.ndarray, names: Sequence[str] = (), *, title: str = "",
    pictures: bool = True,
) -> Results:  # fmt: skip
    """Compute the metrics, tables and pictures of a head.

    Args:
      outputs: averaged probabilities, or numbers, [videos d].
      truth: class numbers [videos], or [videos d]; for one class per video, the most likely of a distribution.
      names: of the classes.
      title: of the head, for its pictures.

    Raises:
      ValueError: if labels are not those of the head, or outputs or labels are not finite.
    """
    scores.finite(outputs)
    if head.kind == "one":
        return _one(outputs, _classes(head, outputs, truth), names, title, pictures)
    truth = _rows(head, outputs, truth)
    if head.kind == "many":
        return _many(outputs, truth, names, title, pictures)
    return _numbers(outputs, truth, title, pictures)


def jointly(
    heads: Mapping[str, Output], outputs: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray | None]
) -> dict[str, float]:
    """Return joint_top1 of several single-class heads, all correct at once; of two also joint_top5."""
    known = {
        name: _classes(heads[name], outputs[name], label)
        for name, label in truth.items()
        if heads[name].kind == "one" and label is not None
    }
    if len(known) < 2:
        return {}
    for name in known:
        scores.finite(outputs[name])
    place = {name: scores.places(outputs[name], label) for name, label in known.items()}
    numbers = {"joint_top1": float(np.all([found == 0 for found in place.values()], axis=0).mean())}
    if len(known) == 2:
        (a, first), (b, second) = known.items()
        hits = [
            (np.outer(outputs[a][i], outputs[b][i]) > outputs[a][i, first[i]] * outputs[b][i, second[i]]).sum() < 5
            for i in range(len(first))
        ]
        numbers["joint_top5"] = float(np.mean(hits))
    return numbers


def _rows(head: Output, outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return labels as in training (`Output.truth`), [videos d]; raise ValueError if they are not the head's."""
    head = dataclasses.replace(head, outputs=outputs.shape[1])
    if head.kind != "numbers" and head.numbered(truth) and (truth.min() < 0 or truth.max() >= head.outputs):
        raise ValueError(
            f"the data's {head.label} goes from {truth.min()} to {truth.max()}, the model has {head.outputs} classes"
        )
    rows = np.asarray(head.truth(truth))
    scores.finite(rows, what=f"the labels {head.label!r}")
    return rows


def _classes(head: Output, outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the class of each video, the most likely of soft labels; raise ValueError if it is not the head's."""
    rows = _rows(head, outputs, truth)
    empty = ~(rows > 0).any(axis=1)
    if empty.any():
        raise ValueError(f"{int(empty.sum())} of {len(rows)} videos have no class in {head.label!r}: all are 0")
    return rows.argmax(axis=1)


def _one(outputs: np.ndarray, label: np.ndarray, names: Sequence[str], title: str, pictures: bool) -> Results:
    classes = outputs.shape[1]
    place, predicted = scores.places(outputs, label), outputs.argmax(axis=1)
    counts, accuracy = scores.class_accuracy(place == 0, label, classes)
    bins = scores.reliability(outputs.max(axis=1), place == 0)
    mixed = scores.confusion(label, predicted, classes)
    numbers = {
        **scores.top(place, classes),
        "mean_class_accuracy": float(accuracy[counts > 0].mean()),
        "ece": scores.calibration(bins),
    }
    if classes == 2 and counts.all():
        numbers["auc"] = scores.auc(outputs[:, 1], label == 1)
    guessed = np.bincount(predicted, minlength=classes)
    rows = [
        [i, _name(names, i), int(counts[i]), int(guessed[i]), round(float(accuracy[i]), 6)]
        for i in range(classes)
        if counts[i]
    ]
    tables = {
        "classes.csv": [["class", "name", "videos", "predicted", "accuracy"], *rows],
        "confusions.csv": _confusions(mixed, names),
        "calibration.csv": _table(bins),
    }
    files = {}
    if pictures:
        files["calibration.png"] = figures.png(figures.reliability(bins, f"Calibration {title}".strip()))
        if classes <= DRAWN:
            files["confusion.png"] = figures.png(figures.confusion(mixed, names, f"Confusion {title}".strip()))
    return Results(numbers, tables, files)


def _many(outputs: np.ndarray, truth: np.ndarray, names: Sequence[str], title: str, pictures: bool) -> Results:
    hard = truth > 0.5
    each = np.array([scores.average_precision(s, t) for s, t in zip(outputs.T, hard.T, strict=True)])
    if np.isnan(each).all():
        raise ValueError("no video has any of the classes: there is no precision to measure")
    bins = scores.reliability(outputs.reshape(-1), hard.reshape(-1))
    # Classes without a positive have no precision and do not count.
    rows = [
        [i, _name(names, i), int(hard[:, i].sum()), round(float(each[i]), 6)]
        for i in np.flatnonzero(~np.isnan(each)).tolist()
    ]
    tables = {
        "classes.csv": [["class", "name", "videos", "average_precision"], *rows],
        "calibration.csv": _table(bins),
    }
    title = f"Calibration {title}".strip()
    files = {"calibration.png": figures.png(figures.reliability(bins, title, "share that is true"))} if pictures else {}
    return Results({"map": float(np.nanmean(each)), "ece": scores.calibration(bins)}, tables, files)


def _numbers(outputs: np.ndarray, truth: np.ndarray, title: str, pictures: bool) -> Results:
    """Return errors averaged over columns; r2 and correlations are means over the columns that vary."""
    error = outputs.astype(np.float64) - truth
    spread = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    vary = spread > 0
    r2 = 1.0 - (error**2).sum(axis=0)[vary] / spread[vary]
    pairs = [(outputs[:, i].astype(np.float64), truth[:, i].astype(np.float64)) for i in np.flatnonzero(vary)]
    numbers = {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}
    if pairs:
        numbers["r2"] = float(r2.mean())
        numbers["pearson"] = _mean([scores.correlation(a, b) for a, b in pairs])
        numbers["spearman"] = _mean([scores.correlation(scores.ranks(a), scores.ranks(b)) for a, b in pairs])
    rows = [
        [i, float(np.abs(error[:, i]).mean()), float(np.sqrt((error[:, i] ** 2).mean()))] for i in range(error.shape[1])
    ]
    drawn = {"regression.png": figures.png(figures.regression(outputs, truth, f"Regression {title}".strip()))}
    return Results(numbers, {"outputs.csv": [["output", "mae", "rmse"], *rows]}, drawn if pictures else {})


def _mean(values: Sequence[float]) -> float:
    """Return the mean, with 0 for outputs that do not vary."""
    return float(np.nan_to_num(np.asarray(values)).mean())


def _confusions(mixed: np.ndarray, names: Sequence[str]) -> list[list[Any]]:
    """Return the confusions, the most frequent first."""
    wrong = mixed * (1 - np.eye(len(mixed), dtype=mixed.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    rows = []
    for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if not wrong[row, column]:
            break
        share = round(float(wrong[row, column] / mixed[row].sum()), 6)
        one, other = int(row), int(column)
        rows.append([one, _name(names, one), other, _name(names, other), int(wrong[one, other]), share])
    return [["class", "name", "predicted", "predicted_name", "videos", "share_of_class"], *rows]


def _table(bins: scores.Bins) -> list[list[Any]]:
    edges = np.linspace(0, 1, len(bins.count) + 1)
    rows = [
        [round(float(edges[i]), 4), round(float(edges[i + 1]), 4), int(bins.count[i]),
         round(float(bins.confidence[i]), 6), round(float(bins.accuracy[i]), 6)]
        for i in range(len(bins.count))
    ]  # fmt: skip
    return [["above", "to", "count", "confidence", "accuracy"], *rows]


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) else ""
