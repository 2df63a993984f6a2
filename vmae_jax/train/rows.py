"""The steps since the last row of metrics: their metrics, their speed, and which of them were refused."""

import collections
import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np

from vmae_jax.train.refused import SPIKE, Refused

__all__ = ["Window", "Work"]

RUN_AHEAD = 2  # steps dispatched before the loop waits for an older one: bounds the batches in flight
_FLAGS = ("finite", "spike")  # these become events, not rows


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of one step.

    Attributes:
      videos, clips: of a step.
      flops: model FLOPs of a step, for `mfu`; None if the peak of the devices is unknown.
      peak: FLOPs per second of all devices together.
    """

    videos: int
    clips: int
    flops: float | None = None
    peak: float | None = None


class _Waiting(Protocol):
    """Batches that measure how long the consumer waits."""

    @property
    def wait_seconds(self) -> float: ...


class Window:
    """The steps since the last row. Metrics stay on the devices until needed: fetching them waits for the step.

    Args:
      work: of a step.
      batches: of the loop.
      start: the step before the first.
    """

    def __init__(self, work: Work, batches: _Waiting, start: int):
        self._work, self._batches = work, batches
        self._step = start  # the last step whose metrics were fetched
        self._pending: list[dict[str, jax.Array]] = []
        self._fetched: list[dict[str, np.ndarray]] = []  # since the last row
        self._in_flight: collections.deque[jax.Array] = collections.deque()
        self._untimed = 0  # steps of the row before `_since`
        self._waited = batches.wait_seconds
        self._since = time.perf_counter()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Add the metrics of the next step."""
        self._pending.append(metrics)
        self._in_flight.append(metrics["loss"])
        if len(self._in_flight) > RUN_AHEAD:
            jax.block_until_ready(self._in_flight.popleft())

    def first_step_done(self) -> float:
        """Wait for the first step, which includes compilation and does not count in the speed; return its seconds."""
        jax.block_until_ready(self._pending)
        seconds = time.perf_counter() - self._since
        self._untimed = 1
        self._waited, self._since = self._batches.wait_seconds, time.perf_counter()
        return seconds

    def look(self) -> list[Refused]:
        """Wait for the steps so far; return those since the last call that were refused."""
        new = jax.device_get(self._pending)
        first = self._step + 1
        self._pending, self._step = [], self._step + len(new)
        self._fetched += new
        return [
            Refused(step, why, {name: float(metrics[name]) for name in ("loss", "grad_norm")})
            for step, metrics in enumerate(new, first)
            if (why := _refused(metrics))
        ]

    def row(self) -> dict[str, float]:
        """Return the metrics of the newest fetched step, and the speed since the last row."""
        now = time.perf_counter()
        waits = self._batches.wait_seconds
        row = {name: float(value) for name, value in self._fetched[-1].items() if name not in _FLAGS}
        row["examples_seen"] = self._step * self._work.videos
        steps, seconds = len(self._fetched) - self._untimed, now - self._since
        if steps > 0 and seconds > 0:
            row |= self._speed(steps, seconds, waits - self._waited)
        self._fetched, self._untimed, self._waited, self._since = [], 0, waits, now
        return row

    def paused(self) -> "_Pause":
        """Return a context whose time does not count in the speed."""
        return _Pause(self)

    def _speed(self, steps: int, seconds: float, waited: float) -> dict[str, float]:
        row = {
            "step_seconds": seconds / steps,
            "examples_per_second": steps * self._work.videos / seconds,
            "clips_per_second": steps * self._work.clips / seconds,
            "data_wait_fraction": min(1.0, waited / seconds),
        }
        if self._work.flops and self._work.peak:
            row["mfu"] = self._work.flops * steps / seconds / self._work.peak
        return row


class _Pause:
    def __init__(self, window: Window):
        self._window = window

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self._window._since += time.perf_counter() - self._began


def _refused(metrics: Mapping[str, np.ndarray]) -> str:
    if not metrics["finite"]:
        return "not finite"
    return SPIKE if metrics.get("spike", 0.0) else ""
