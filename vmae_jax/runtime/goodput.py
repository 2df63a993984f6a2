"""What the wall time of a run went into, from its first start to now, restarts included.

While a process trains, its watchdog knows which phase it is in. What came before is in the rows of
`metrics.jsonl`: an event "time spent" stands before every checkpoint, what came after the restored
one was lost, and from its last row to the new start the run was down.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["EVENT", "KINDS", "Account", "carried", "shares"]

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

    def began(self) -> float:
        """When this process began to count, in seconds since 1970: until then the run was down."""
        return time.time() - sum(self._spent().values())

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


def carried(rows: Sequence[Mapping[str, Any]], start: int, now: float | None = None) -> dict[str, float]:
    """What the attempts that left `rows` took, by kind, when the run goes on from step `start`.

    Args:
      rows: of `metrics.jsonl`, as they were before those past `start` were dropped.
      start: the step of the checkpoint; 0 to begin anew.
      now: when this attempt began (`Account.began`), in seconds since 1970.
    """
    rows = [row for row in rows if isinstance(row.get("time"), int | float)]
    if not rows:
        return {}
    now = time.time() if now is None else now
    kept = [row for row in rows if row.get("event") == EVENT and row.get("step", 0) <= start and start > 0]
    base = {kind: float(kept[-1].get(kind, 0.0)) for kind in KINDS} if kept else dict.fromkeys(KINDS, 0.0)
    since = kept[-1]["time"] if kept else min(row["time"] for row in rows)
    last = max(row["time"] for row in rows)
    base["lost"] += max(0.0, last - since)
    base["down"] += max(0.0, now - last)
    return base


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Kind -> share of the whole, 0 to 1."""
    whole = sum(seconds.get(kind, 0.0) for kind in KINDS)
    return {kind: seconds.get(kind, 0.0) / whole if whole > 0 else 0.0 for kind in KINDS}
