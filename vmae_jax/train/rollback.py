"""Which batch a step trains on, once windows of the data were left behind by rolling back.

The data of a run are the batches 0, 1, 2, … without the windows that were skipped. So the batch of
a step is a function of its number and the list of windows alone, whichever checkpoint the run is
resumed from.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Skip", "batch_of", "in_a_row", "runs"]


class Skip(NamedTuple):
    """A window of batches that is never trained on again.

    Attributes:
      first: its first batch.
      last: the batch after its last.
      back_to: the step that the run went back to.
      reason: why, for people.
    """

    first: int
    last: int
    back_to: int
    reason: str = ""


def batch_of(step: int, skips: Sequence[Skip]) -> int:
    """The number of the batch that follows `step` steps."""
    batch = step
    for first, last in _merged(skips):
        if batch >= first:
            batch += last - first
    return batch


def runs(step: int, skips: Sequence[Skip]) -> Iterator[tuple[int, int | None]]:
    """The batches from that of `step` on, as ranges [first, last); the last range has no end."""
    batch = batch_of(step, skips)
    for first, last in _merged(skips):
        if first > batch:
            yield batch, first
        batch = max(batch, last)
    yield batch, None


def in_a_row(skips: Sequence[Skip], back_to: int) -> int:
    """How often the run went back to `back_to` at the end of `skips`, with no newer checkpoint between."""
    count = 0
    for skip in reversed(skips):
        if skip.back_to != back_to:
            break
        count += 1
    return count


def _merged(skips: Sequence[Skip]) -> list[tuple[int, int]]:
    """The windows in order and apart: one may hold another, where the run went further back later."""
    windows: list[tuple[int, int]] = []
    for first, last, *_ in sorted(skips):
        if windows and first <= windows[-1][1]:
            windows[-1] = windows[-1][0], max(last, windows[-1][1])
        else:
            windows.append((first, last))
    return windows
