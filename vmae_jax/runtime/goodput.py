"""What the wall time of a run went into, from its first start to now, restarts included.

While a process trains, its watchdog knows which phase it is in. What came before is in the rows of
`metrics.jsonl`: an event "time spent" stands before every checkpoint, what came after the restored
one was lost, and from its last row to the new start the run was down.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["EVENT", "KINDS", "Account", "Moment", "carried", "shares"]

EVENT = "time spent"
# Kinds of time, with the watchdog's phases that make them up ("": outside of all).
KINDS: Mapping[str, tuple[str, ...]] = {
    "trained": ("step",),
    "compiled": ("compile",),
    "waited": ("data",),
    "saved": ("save",),
    "evaluated": ("evaluate",),
    "started": ("", "restore"),
    "lost": (),
    "down": (),
}


class Moment(NamedTuple):
    """A point in time (`io.clock.now`).

    Attributes:
      time: seconds since 1970, by a clock that may be set.
      boot: which start of which machine `uptime` is of; "" where that is not known.
      uptime: seconds of a clock that only goes forward.
    """

    time: float
    boot: str = ""
    uptime: float = 0.0

    def until(self, later: "Moment") -> float:
        """Return the seconds from here to `later`, never less than 0."""
        same = self.boot and self.boot == later.boot
        return max(0.0, later.uptime - self.uptime if same else later.time - self.time)


class Account:
    """The seconds of a run by kind; their sum is the wall time since the first start.

    Args:
      spent: seconds of this process by phase (`Watchdog.spent`).
      before: of earlier attempts, from `carried`.
    """

    def __init__(self, spent: Callable[[], Mapping[str, float]], before: Mapping[str, float] | None = None):
        self._spent = spent
        self._before = dict.fromkeys(KINDS, 0.0) | dict(before or {})
        self._at: dict[int, dict[str, float]] = {}

    def carry(self, before: Mapping[str, float]) -> None:
        """Adds what earlier attempts took."""
        self._before |= {kind: self._before[kind] + seconds for kind, seconds in before.items()}

    def seconds(self) -> dict[str, float]:
        """Kind -> seconds."""
        phases = self._spent()
        own = {kind: sum(phases.get(name, 0.0) for name in names) for kind, names in KINDS.items()}
        return {kind: self._before[kind] + own[kind] for kind in KINDS}

    def running(self) -> float:
        """The seconds that this process has counted: until then the run was down."""
        return sum(self._spent().values())

    def mark(self, step: int) -> None:
        """Remembers the account at a step that the run may go back to."""
        self._at[step] = self.seconds()

    def back(self, step: int) -> None:
        """What went on since `mark(step)` was for nothing."""
        then = self._at.get(step, dict.fromkeys(KINDS, 0.0))
        for kind, seconds in self.seconds().items():
            if kind not in ("lost", "down", "started"):
                self._before[kind] -= seconds - then[kind]
                self._before["lost"] += seconds - then[kind]
        self._at = {at: account for at, account in self._at.items() if at <= step}


def carried(rows: Sequence[Mapping[str, Any]], start: int, now: Moment) -> dict[str, float]:
    """What the attempts that left `rows` took, by kind, when the run goes on from step `start`.

    Args:
      rows: of `metrics.jsonl`, as they were before those past `start` were dropped.
      start: the step of the checkpoint, or 0.
      now: when this attempt began.
    """
    # An evaluation may be that of another process, at any time.
    rows = [row for row in rows if isinstance(row.get("time"), int | float) and row.get("kind") != "eval"]
    if not rows:
        return {}
    kept = [i for i, row in enumerate(rows) if row.get("event") == EVENT and row.get("step", 0) <= start]
    base = {kind: float(rows[kept[-1]].get(kind, 0.0)) for kind in KINDS} if kept else dict.fromkeys(KINDS, 0.0)
    after = _moments(rows)[kept[-1] if kept else 0 :]
    base["lost"] += sum(one.until(next_) for one, next_ in itertools.pairwise(after))
    base["down"] += after[-1].until(now)
    return base


def _moments(rows: Sequence[Mapping[str, Any]]) -> list[Moment]:
    """When the rows were written: an attempt's steady clock goes on from the event that it began with."""
    moments, boot, ahead = [], "", 0.0
    for row in rows:
        at = float(row["time"])
        if isinstance(row.get("boot"), str) and isinstance(row.get("uptime"), int | float):
            boot, ahead = row["boot"], row["uptime"] - at
        moments.append(Moment(at, boot, at + ahead))
    return moments


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Kind -> share of the whole, 0 to 1."""
    whole = sum(seconds.get(kind, 0.0) for kind in KINDS)
    return {kind: seconds.get(kind, 0.0) / whole if whole > 0 else 0.0 for kind in KINDS}
