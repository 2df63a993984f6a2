"""A search for the largest size that fits, with few trials, because each is a compilation."""

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Trial", "largest"]


class Trial(NamedTuple):
    """The result for a size: whether it fits, and its peak in bytes."""

    size: int
    fits: bool
    peak: int


def largest(
    first: Trial, attempt: Callable[[int], Trial], *, unit: int, fixed: int, limit: int, tries: int
) -> tuple[int | None, list[Trial]]:
    """Return the largest multiple of `unit` that was found to fit.

    Memory is nearly linear in the size, so two sizes predict a third, and the
    search then closes in from both sides. It ends when the next larger size does not fit.

    Args:
      first: a size that was already tried.
      attempt: tries a size.
      fixed: bytes that do not grow with the size.
      limit: available bytes.
      tries: maximum number of calls of `attempt`.

    Returns:
      The size, or None if none fits, and every trial.
    """
    trials = [first]
    while len(trials) <= tries:
        low = max((t.size for t in trials if t.fits), default=0)
        high = min((t.size for t in trials if not t.fits), default=None)
        if high is not None and high - low <= unit:
            break
        guess = _guess(trials, unit=unit, fixed=fixed, limit=limit)
        guess = max(guess, (low // unit + 1) * unit)  # `low` may be the first size, which need not be a multiple
        if high is not None:
            guess = min(guess, (high - 1) // unit * unit)
        trials.append(attempt(guess))
    fitting = [t.size for t in trials if t.fits]
    return (max(fitting) if fitting else None), trials


def _guess(trials: list[Trial], *, unit: int, fixed: int, limit: int) -> int:
    """Return the size at which a line through the trial nearest to the limit reaches it, in whole units."""
    near = min(trials, key=lambda t: abs(t.peak - limit))
    slope = max(1.0, near.peak - fixed) / near.size
    size = near.size + (limit - near.peak) / slope
    # When the line is accurate, a guess one unit above it closes the gap from above.
    return max(1, int(size // unit)) * unit
