"""Finds the largest size that fits, with few trials, each of them a compilation."""

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Trial", "largest"]


class Trial(NamedTuple):
    """What became of a size: `peak` bytes of the `limit` that there are."""

    size: int
    fits: bool
    peak: int


def largest(
    first: Trial, attempt: Callable[[int], Trial], *, unit: int, fixed: int, limit: int, tries: int
) -> tuple[int | None, list[Trial]]:
    """The largest multiple of `unit` seen to fit.

    Memory grows nearly in proportion to the size, so two sizes tell where a third should be; the
    search then closes in from both sides. It ends when the next larger size is known not to fit.

    Args:
      first: a size that was tried already.
      attempt: tries a size.
      fixed: bytes that do not grow with the size.
      limit: bytes there are.
      tries: how often `attempt` may be called.

    Returns:
      The size, None where none fits, and every trial.
    """
    trials = [first]
    while len(trials) <= tries:
        low = max((t.size for t in trials if t.fits), default=0)
        high = min((t.size for t in trials if not t.fits), default=None)
        if high is not None and high - low <= unit:
            break
        guess = _guess(trials, unit=unit, fixed=fixed, limit=limit)
        guess = max(guess, (low // unit + 1) * unit)  # `low` may be the first size, which is no multiple
        if high is not None:
            guess = min(guess, (high - 1) // unit * unit)
        trials.append(attempt(guess))
    fitting = [t.size for t in trials if t.fits]
    return (max(fitting) if fitting else None), trials


def _guess(trials: list[Trial], *, unit: int, fixed: int, limit: int) -> int:
    """Where a straight line through the trial nearest to the limit meets it, in whole units."""
    near = min(trials, key=lambda t: abs(t.peak - limit))
    slope = max(1.0, near.peak - fixed) / near.size
    size = near.size + (limit - near.peak) / slope
    # Once the line is good, a guess a unit beyond it closes the gap from above as well.
    return max(1, int(size // unit)) * unit
