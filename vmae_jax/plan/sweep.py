"""Comparison of meshes, remat policies and numbers of micro-batches; each trial is a compilation."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

__all__ = ["Candidate", "Row", "meshes", "recommend", "sweep"]

FEW = 8  # devices that share the state: enough for a published model, and close to each other
ALIKE = 1.01  # ratio of estimates below which they count as equal


class Candidate(NamedTuple):
    """A configuration of a step.

    Attributes:
      ici: sizes of the mesh's axes inside a slice.
      remat: policy of the model, or None.
      accumulate: micro-batches per step.
    """

    ici: tuple[tuple[str, int], ...]
    remat: str | None
    accumulate: int


@dataclasses.dataclass(frozen=True)
class Row:
    """The result of a candidate.

    Attributes:
      candidate: the configuration.
      fits: whether it fits.
      peak: bytes per device; None if it was refused before it was compiled.
      seconds: the estimate for ranking; None if it does not fit.
      facts: further figures for the report.
    """

    candidate: Candidate
    fits: bool
    peak: int | None
    seconds: float | None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def meshes(devices: int) -> list[tuple[tuple[str, int], ...]]:
    """Return the meshes to compare: the state on every device, over few devices, over all, and by heads.

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
    """Vary one thing at a time around the best so far: mesh, then remat policy, then micro-batches.

    Args:
      start: the first candidate.
      attempt: compiles a candidate.
      meshes, policies, accumulates: the alternatives, in the order of trying.
      tries: maximum number of calls of `attempt`.

    Returns:
      The results in the order of trying.
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
    if not rows[start].fits:  # first find something that fits: more micro-batches are smaller
        for accumulate in sorted(n for n in accumulates if n > start.accumulate):
            if recommend(list(rows.values())) is None:
                among(iter([start._replace(accumulate=accumulate)]))
    among(best()._replace(ici=ici) for ici in meshes)
    among(best()._replace(remat=policy) for policy in (policies if start.remat is not None else ()))
    among(best()._replace(accumulate=accumulate) for accumulate in accumulates)
    return list(rows.values())


def recommend(rows: Sequence[Row]) -> Row | None:
    """Return the fastest of those that fit, by estimate; among equals, the one with the least memory."""
    fitting = [row for row in rows if row.fits and row.seconds is not None]
    if not fitting:
        return None
    least = min(row.seconds or 0.0 for row in fitting)
    return min((row for row in fitting if (row.seconds or 0.0) <= least * ALIKE), key=lambda row: row.peak or 0)
