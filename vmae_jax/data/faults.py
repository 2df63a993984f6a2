"""Videos that cannot be read: each remembered, reported once, and their share compared with a limit."""

import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

from vmae_jax.data.video import Kind

__all__ = ["ENOUGH", "Fault", "Ledger", "TooManyBadVideos", "none_readable", "too_many"]

ENOUGH = 20  # different videos before their share says anything; all of them where there are fewer
_FEW = 4  # unreadable videos that never stop a run, unless they are more than half of all
_DEVIATIONS = 4.0  # by which the share of a sample may exceed the limit by chance
_SHOWN = 3


class Fault(NamedTuple):
    """A video that cannot be read.

    Attributes:
      key: its name.
      reason: why, in one line.
      index: its number in the source.
      kind: see `video.BadVideo`.
      drawn: it was due at a position, and not only met as the neighbour of another that was. Only such
        videos are a fair sample: broken files often stand next to each other.
    """

    key: str
    reason: str
    index: int
    kind: Kind = "broken"
    drawn: bool = True


class TooManyBadVideos(RuntimeError):  # noqa: N818 - reads as what it is
    """More of the videos cannot be read than the config allows."""


def too_many(bad: int, seen: int, videos: int, limit: float) -> bool:
    """Return whether so many unreadable videos speak against the whole source.

    The share is judged over different videos, and only after 20 of them (or all, where there are fewer). While
    some have not been read yet, it has to exceed the limit by four standard deviations of a sample, so that
    a source whose share is within the limit is not given up by chance. Up to four never count as too many,
    unless they are more than half: a share of a few files says little. A limit of 0 allows none at all.

    Args:
      bad: different videos that could not be read.
      seen: different videos that were due so far.
      videos: of the source.
      limit: the share that is allowed.
    """
    if limit == 0 or bad == videos:
        return bad > 0
    seen = min(max(seen, bad), videos)  # readers of the data service are ahead of the batches that are counted
    if seen < min(ENOUGH, videos):
        return False
    chance = _DEVIATIONS * math.sqrt(limit * (1 - limit) * seen * (1 - seen / videos))
    return bad > max(limit * seen + chance, min(_FEW, seen / 2))


def none_readable(videos: int, tried: int, faults: Sequence[Fault]) -> TooManyBadVideos:
    """Return the error for a source of which nothing can be read."""
    shown = "; ".join(f"{fault.key} {fault.reason}" for fault in faults[:_SHOWN])
    which = f"none of the {videos} videos" if tried >= videos else f"none of the first {tried} of {videos} videos"
    return TooManyBadVideos(f"{which} can be read: {shown}{'; …' if len(faults) > _SHOWN else ''}")


class Ledger:
    """The videos that could not be read, from any number of threads.

    Such a video is not read again: its reason is kept, so a decoder that hangs costs its timeout once and
    not once an epoch. Each is kept with the first position that met it, so that what `drain` gives follows
    from the positions alone, however far the readers are ahead.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: dict[int, Fault] = {}
        self._met: dict[tuple[int, bool], int] = {}  # (index, drawn): the first position, until it is given out
        self._given: set[tuple[int, bool]] = set()

    def known(self, index: int, position: int, *, drawn: bool) -> bool:
        """Return whether a video cannot be read; if so, it was met at `position`."""
        with self._lock:
            if index not in self._faults:
                return False
            self._meet(index, position, drawn)
            return True

    def bad(self, fault: Fault, position: int) -> None:
        """Add a video that could not be read at `position`."""
        with self._lock:
            self._faults.setdefault(fault.index, fault)
            self._meet(fault.index, position, fault.drawn)

    def drain(self, before: int | None = None) -> list[Fault]:
        """Return what was met since the last call, at positions before `before` (by default all), in their order.

        A video that was first met as a neighbour and then drawn is given a second time, as drawn.
        """
        with self._lock:
            due = sorted((at, key) for key, at in self._met.items() if before is None or at < before)
            for _, key in due:
                del self._met[key]
                self._given.add(key)
            drawn = {index for _, (index, drawn) in due if drawn}
            for index in drawn:
                self._met.pop((index, False), None)  # a neighbour of later positions: nothing new
            keys = [(index, flag) for _, (index, flag) in due if flag or index not in drawn]
            return [self._faults[index]._replace(drawn=flag) for index, flag in keys]

    def faults(self) -> list[Fault]:
        """Return all videos that could not be read so far."""
        with self._lock:
            return list(self._faults.values())

    def _meet(self, index: int, position: int, drawn: bool) -> None:
        if (index, drawn) in self._given or (index, True) in self._given:
            return
        self._met[index, drawn] = min(position, self._met.get((index, drawn), position))
