"""Broken videos: each remembered, told once, and counted against a limit."""

import threading
from typing import NamedTuple

from vmae_jax.data.video import Kind

__all__ = ["Fault", "Ledger", "TooManyBadVideos"]

MINIMUM = 32  # reads before a share says anything
_SHOWN = 10


class Fault(NamedTuple):
    """A video that cannot be read: its name, the reason, its number in the source, and its kind (`BadVideo`)."""

    key: str
    reason: str
    index: int
    kind: Kind = "broken"


class TooManyBadVideos(RuntimeError):  # noqa: N818 - reads as what it is
    """More of the videos are broken than the config allows; the message lists them."""


class Ledger:
    """What was read and what was broken, from any number of threads.

    A broken video is not read again: its reason is kept, so a decoder that hangs costs its
    timeout once and not once an epoch.
    """

    def __init__(self, max_fraction: float) -> None:
        self._max = max_fraction
        self._lock = threading.Lock()
        self._known: dict[int, Fault] = {}
        self._untold: list[Fault] = []
        self._reads = 0
        self._bad = 0

    def known(self, index: int) -> bool:
        """True for a video that is broken; counts as having met it again.

        Raises:
          TooManyBadVideos: the share of broken ones is above the limit.
        """
        with self._lock:
            if index not in self._known:
                return False
            self._count(bad=True)
            return True

    def good(self) -> None:
        """Counts a video that was read."""
        with self._lock:
            self._count(bad=False)

    def bad(self, fault: Fault) -> None:
        """Writes down a broken video.

        Raises:
          TooManyBadVideos: the share of broken ones is above the limit.
        """
        with self._lock:
            if fault.index not in self._known:
                self._known[fault.index] = fault
                self._untold.append(fault)
            self._count(bad=True)

    def drain(self) -> list[Fault]:
        """The faults found since the last call."""
        with self._lock:
            told, self._untold = self._untold, []
            return told

    def all_bad(self, videos: int) -> TooManyBadVideos:
        """The error for a source of which nothing can be read."""
        return TooManyBadVideos(f"none of the {videos} videos can be read: {self._listed()}")

    def _count(self, *, bad: bool) -> None:
        self._reads += 1
        self._bad += bad
        if self._reads >= MINIMUM and self._bad > self._max * self._reads:
            raise TooManyBadVideos(
                f"{self._bad} of {self._reads} videos read were broken, more than max_bad_fraction={self._max:g} "
                f"({len(self._known)} different ones): {self._listed()}"
            )

    def _listed(self) -> str:
        faults = list(self._known.values())
        shown = "; ".join(f"{fault.key} {fault.reason}" for fault in faults[:_SHOWN])
        return shown + (f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else "")
