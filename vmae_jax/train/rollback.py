"""The batch of a step, after roll-backs have skipped windows of the data.

The data of a run are the batches 0, 1, 2, … without the skipped windows. The batch of a step is therefore a
function of its number and the list of windows, whichever checkpoint the run resumes from.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Skip", "batch_of", "in_a_row", "runs"]


class Skip(NamedTuple):
    """A window of batches that is never trained on again.

    Attributes:
      first: its first batch.
      last: the batch after its last.
      back_to: the step that the run was rolled back to.
      reason: in words.
    """

    first: int
    last: int
    back_to: int
    reason: str = ""


def batch_of(step: int, skips: Sequence[Skip]) -> int:
    """Return the number of the batch after `step` steps."""
    batch = step
    for first, last in _merged(skips):
        if batch >= first:
            batch += last - first
    return batch


def runs(step: int, skips: Sequence[Skip]) -> Iterator[tuple[int, int | None]]:
    """Yield the batches from that of `step` on, as ranges [first, last); the last range has no end."""
    batch = batch_of(step, skips)
    for first, last in _merged(skips):
        if first > batch:
            yield batch, first
        batch = max(batch, last)
    yield batch, None


def in_a_row(skips: Sequence[Skip], back_to: int) -> int:
    """Return how many of the last roll-backs in a row went to `back_to`, with no newer checkpoint between."""
    count = 0
    for skip in reversed(skips):
        if skip.back_to != back_to:
            break
        count += 1
    return count


def _merged(skips: Sequence[Skip]) -> list[tuple[int, int]]:
    """Return the windows in order, merged where they overlap after a roll-back to an older step."""
    windows: list[tuple[int, int]] = []
    for first, last, *_ in sorted(skips):
        if windows and first <= windows[-1][1]:
            windows[-1] = windows[-1][0], max(last, windows[-1][1])
        else:
            windows.append((first, last))
    return windows
