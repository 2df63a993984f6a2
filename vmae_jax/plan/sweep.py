"""Compares meshes, remat policies and numbers of micro-batches, and recommends one; each trial is a compilation."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

__all__ = ["Candidate", "Row", "meshes", "recommend", "sweep"]

FEW = 8  # a published model's state, split so, leaves room on every chip, and is gathered from near devices
ALIKE = 1.01  # estimates closer than this are the same


class Candidate(NamedTuple):
    """A way to run a step.

    Attributes:
      ici: sizes of the mesh's axes inside a slice.
      remat: a policy of the model; None where it has none.
      accumulate: micro-batches a step.
    """

    ici: tuple[tuple[str, int], ...]
    remat: str | None
    accumulate: int


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of a candidate.

    Attributes:
      candidate: which.
      fits: whether it does.
      peak: bytes a device; None where it was refused before it was compiled.
      seconds: the estimate by which candidates are ranked; None where it does not fit.
      facts: more of it, for people.
    """

    candidate: Candidate
    fits: bool
    peak: int | None
    seconds: float | None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def meshes(devices: int) -> list[tuple[tuple[str, int], ...]]:
    """The meshes that are compared: the state whole on every device, over few devices, over all, and by heads.

    Args:
      devices: of a slice.
    """
    sizes = [(devices // (fsdp * tensor), fsdp, tensor) for fsdp, tensor in ((1, 1), (FEW, 1), (FEW, 2), (devices, 1))
             if devices % (fsdp * tensor) == 0]  # fmt: skip
    return [tuple(zip(("data", "fsdp", "tensor"), each, strict=True)) for each in dict.fromkeys(sizes)]


def sweep(
    start: Candidate,
    attempt: Callable[[Candidate], Row],
    *,
    meshes: Sequence[tuple[tuple[str, int], ...]],
    policies: Sequence[str],
    accumulates: Sequence[int],
    tries: int,
) -> list[Row]:
    """Varies one thing at a time around the best so far: mesh, then remat policy, then micro-batches.

    Args:
      start: where to begin.
      attempt: compiles a candidate.
      meshes, policies, accumulates: what there is to try; micro-batches in the order of trying.
      tries: how often `attempt` may be called.

    Returns:
      What became of each, in the order of trying.
    """
    rows: dict[Candidate, Row] = {}

    def among(candidates: Iterator[Candidate]) -> None:
        for candidate in candidates:
            if candidate not in rows and len(rows) < tries:
                rows[candidate] = attempt(candidate)

    def best() -> Candidate:
        chosen = recommend(list(rows.values()))
        return start if chosen is None else chosen.candidate

    among(iter([start]))
    if not rows[start].fits:  # first of all something that fits: more micro-batches are smaller ones
        for accumulate in sorted(n for n in accumulates if n > start.accumulate):
            if recommend(list(rows.values())) is None:
                among(iter([start._replace(accumulate=accumulate)]))
    among(best()._replace(ici=ici) for ici in meshes)
    among(best()._replace(remat=policy) for policy in (policies if start.remat is not None else ()))
    among(best()._replace(accumulate=accumulate) for accumulate in accumulates)
    return list(rows.values())


def recommend(rows: Sequence[Row]) -> Row | None:
    """The quickest by estimate of those that fit; of those as quick, the one that needs the least memory."""
    fitting = [row for row in rows if row.fits and row.seconds is not None]
    if not fitting:
        return None
    least = min(row.seconds or 0.0 for row in fitting)
    return min((row for row in fitting if (row.seconds or 0.0) <= least * ALIKE), key=lambda row: row.peak or 0)
