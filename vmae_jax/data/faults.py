"""Videos that cannot be read: each remembered, reported once, and their share compared with a limit.

Files that a list names and a disk does not hold are counted before the first step, at a bounded cost.
"""

import logging
import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from vmae_jax.data.video import Kind
from vmae_jax.names import as_text
from vmae_jax.spec import ConfigError

__all__ = [
    "ENOUGH",
    "Fault",
    "Ledger",
    "Missing",
    "TooManyBadVideos",
    "check_missing",
    "look_for",
    "none_readable",
    "too_many",
]

log = logging.getLogger(__name__)

ENOUGH = 20  # different videos before their share means anything; all of them where there are fewer
_FEW = 4  # unreadable videos that never stop a run, unless they are more than half of all
_DEVIATIONS = 4.0  # by which the share of a sample may exceed the limit by chance
_SHOWN = 3
LOOKED = 10_000  # files at most: a share of 5% is then found to within 0.7 points (three standard deviations)
_THREADS = 32  # a network disk answers many questions at once


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
    unless they are more than half: a share of a few files means little. A limit of 0 allows none at all.

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


class Missing(NamedTuple):
    """What of a list is not there.

    Attributes:
      where: the list, for messages.
      count: files that are not there.
      looked: files that were looked for.
      listed: files that the list names.
      names: the first few that are not there.
      hint: what may be the reason.
    """

    where: str
    count: int
    looked: int
    listed: int
    names: tuple[str, ...]
    hint: str = ""


def look_for(paths: Sequence[str], where: str, hint: str = "") -> Missing:
    """Count the local files of a list that are not there.

    Up to 10,000 files all are looked for; of more, 10,000 that are evenly spaced in the list, so that the first step
    of a list of millions on a network disk does not wait for an hour. What is missing besides is found when it is read.
    """
    count = len(paths)
    chosen = [paths[i * count // LOOKED] for i in range(LOOKED)] if count > LOOKED else list(paths)
    with ThreadPoolExecutor(_THREADS) as pool:
        there = list(pool.map(os.path.exists, chosen, chunksize=64))
    absent = [path for path, found in zip(chosen, there, strict=True) if not found]
    return Missing(where, len(absent), len(chosen), count, tuple(map(as_text, absent[:_SHOWN])), hint)


def check_missing(missing: Missing | None, limit: float) -> None:
    """Log how many files of a list are not there, in one line.

    Raises:
      ConfigError: if all are missing, or more than the share `limit` (`faults.too_many`).
    """
    if missing is None or not missing.count:
        return
    few = missing.looked < missing.listed
    which = f"{missing.looked:,} looked for of {missing.listed:,}" if few else f"{missing.listed:,}"
    message = (
        f"data source: {missing.count:,} of the {which} videos of {missing.where} are not there "
        f"({missing.count / missing.looked:.0%}), such as {', '.join(missing.names)}"
    )
    if missing.count == missing.looked:
        raise ConfigError(f"{message}{missing.hint}")
    if too_many(missing.count, missing.looked, missing.listed, limit):
        raise ConfigError(
            f"{message}; the limit is {limit:.0%}{missing.hint}. To train without them raise max_bad_fraction of this "
            f"loader, such as --config.data.max_bad_fraction={min(1.0, missing.count / missing.looked + 0.05):.2f}"
        )
    log.warning("%s; they are skipped", message)
