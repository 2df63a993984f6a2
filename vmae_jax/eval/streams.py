"""Predictions along a video, by a network as it was trained and by one that goes on learning: table and comparison."""

import csv
import io
from collections.abc import Iterable
from typing import Any, NamedTuple

__all__ = ["Moment", "comparison", "moments", "table"]


class Moment(NamedTuple):
    """What two networks predict at one moment of a video.

    Attributes:
      frame: number of the frame.
      seconds: its time.
      label: the class of the video, or None.
      without, without_probability: the class that the network as it was trained predicts.
      adapted, adapted_probability: the class that the adapted network predicts.
      loss: that the adaptation reduces, before its step.
      refused: whether a step of the adaptation was refused because it was not finite.
    """

    frame: int
    seconds: float
    label: int | None
    without: int
    without_probability: float
    adapted: int
    adapted_probability: float
    loss: float
    refused: bool


def table(rows: Iterable[Moment]) -> str:
    """Return moments as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Moment._fields)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else int(value)


def moments(text: str) -> list[Moment]:
    """Return the moments of a table.

    Raises:
      ValueError: if it is not one of `table`.
    """
    header, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    if tuple(header) != Moment._fields or not rows:
        raise ValueError(f"its columns are {', '.join(header) or 'none'}, and it has {len(rows)} rows")
    return [_moment(*row) for row in rows]


def _moment(*cells: str) -> Moment:
    if len(cells) != len(Moment._fields):
        raise ValueError(f"a row of {len(cells)} cells")
    frame, seconds, label, without, sure, adapted, surer, loss, refused = cells
    known = int(label) if label else None
    two = (int(without), float(sure), int(adapted), float(surer))
    return Moment(int(frame), float(seconds), known, *two, float(loss), refused == "1")


def comparison(rows: Iterable[Moment]) -> dict[str, Any]:
    """Return how two networks compare over some moments, of which there is at least one.

    `agreement` is the share of moments with equal predictions; `probability` the mean of the predicted classes; `loss`
    the mean before each step; `refused` the number of moments with a refused step. `top1`, the share of right
    predictions, is over the moments with labels, and there only if there are any.
    """
    sums = dict.fromkeys(("moments", "equal", "loss", "refused", "labelled"), 0.0)
    sure, right = ({"without": 0.0, "adapted": 0.0} for _ in range(2))
    for row in rows:
        sums["moments"] += 1
        sums["equal"] += row.without == row.adapted
        sums["loss"] += row.loss
        sums["refused"] += row.refused
        sums["labelled"] += row.label is not None
        for name in right:
            sure[name] += getattr(row, f"{name}_probability")
            right[name] += row.label is not None and getattr(row, name) == row.label
    count, labelled = sums["moments"], sums["labelled"]
    found = {
        "moments": int(count),
        "agreement": sums["equal"] / count,
        "probability": {name: total / count for name, total in sure.items()},
        "loss": sums["loss"] / count,
        "refused": int(sums["refused"]),
    }
    return found | ({"top1": {name: total / labelled for name, total in right.items()}} if labelled else {})
