"""Collapse: whether features have become constant, or kept only a few dimensions, by the statistics of `eval.spectrum`.

The verdict is a function of the evaluations of a run so far, as `metrics.jsonl` has them, so a resumed run reaches the
same one.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

__all__ = ["LEAST_RANK", "LEAST_SPREAD", "Limits", "Verdict", "alarms", "verdict"]

LEAST_RANK = 2.0  # centred RankMe below which features have one dimension, whatever their number
LEAST_SPREAD = 1e-3  # normalized standard deviation below which features are constant

Found = Mapping[str, float]  # what `eval.spectrum` measured once


@dataclasses.dataclass(frozen=True)
class Limits:
    """When an evaluation raises an alarm, and after how many of them features count as collapsed.

    Attributes:
      floor: least centred RankMe, as a share of the largest possible one, min(clips - 1, dimensions).
      fall: the same, as a share of the largest one of this run so far.
      dead: least spread of a dimension, as a share of the mean spread.
      shrink: least mean spread, and least normalized one, as a share of the largest of this run so far.
      patience: number of evaluations in a row with an alarm.
    """

    floor: float = 0.05
    fall: float = 0.25
    dead: float = 1e-3
    shrink: float = 0.05
    patience: int = 2


class Verdict(NamedTuple):
    """Whether features have collapsed.

    Attributes:
      reasons: the alarms of the last evaluation, if there were enough in a row; else none.
      healthy: the step of the last evaluation without an alarm, 0 if there is none.
    """

    reasons: tuple[str, ...]
    healthy: int


def verdict(evaluations: Sequence[tuple[int, Found]], limits: Limits) -> Verdict:
    """Judge the last of a run's evaluations.

    An evaluation before the first step raises no alarm: random features are not collapsed. It is a standard for the
    spread of later ones, but not for their rank, because that of random features is high.

    Args:
      evaluations: (step, statistics), ascending.
      limits: of the alarms.
    """
    trained = [number for number, (step, _) in enumerate(evaluations) if step > 0]
    raised = [bool(alarms(evaluations[: number + 1], limits)) for number in trained]
    steps = [evaluations[number][0] for number in trained]
    healthy = max((step for step, alarm in zip(steps, raised, strict=True) if not alarm), default=0)
    newest = raised[-limits.patience :]
    collapsed = len(newest) == limits.patience and all(newest)
    return Verdict(tuple(alarms(evaluations, limits)) if collapsed else (), healthy)


def alarms(evaluations: Sequence[tuple[int, Found]], limits: Limits) -> list[str]:
    """Return the alarms of the last of these evaluations, each as a phrase."""
    return [*_of_rank(evaluations, limits), *_of_spread(evaluations, limits)]


def _of_rank(evaluations: Sequence[tuple[int, Found]], limits: Limits) -> Iterator[str]:
    now = evaluations[-1][1]
    rank, possible = now["rankme_centred"], min(now["clips"] - 1, now["dimensions"])
    highest = max((found["rankme_centred"] for step, found in evaluations if step > 0), default=rank)
    if rank < LEAST_RANK:
        yield f"the centred RankMe is {rank:.3g}, below {LEAST_RANK:g}"
    elif rank < limits.floor * possible:
        yield f"the centred RankMe is {rank:.3g}, below {limits.floor:.3g} of the possible {possible:g}"
    if rank < limits.fall * highest:
        yield f"the centred RankMe is {rank:.3g}, below {limits.fall:.3g} of its maximum {highest:.3g}"


def _of_spread(evaluations: Sequence[tuple[int, Found]], limits: Limits) -> Iterator[str]:
    now = evaluations[-1][1]
    if now["std_min"] < limits.dead * now["std"]:
        yield f"the least spread of a dimension is {now['std_min']:.3g}, the mean {now['std']:.3g}"
    if now["normalized_std"] < LEAST_SPREAD:
        yield f"the normalized spread is {now['normalized_std']:.3g}, below {LEAST_SPREAD:g}"
    for name, words in (("std", "mean spread"), ("normalized_std", "normalized spread")):
        widest = max(found[name] for _, found in evaluations)
        if now[name] < limits.shrink * widest:
            yield f"the {words} is {now[name]:.3g}, below {limits.shrink:.3g} of its maximum {widest:.3g}"
