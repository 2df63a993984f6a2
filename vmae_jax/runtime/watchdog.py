"""Notices what does not end: a step, a compilation, a save or a restore that passes its limit.

A process whose peer is stuck waits forever without an error from JAX. The watchdog writes which hosts
give no sign of life and the stacks of all threads here, and ends the process with the status that
a supervisor restarts. A coordinator that does not answer is named in the same way, before JAX would abort the
process without a word about it.
"""

import contextlib
import dataclasses
import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from vmae_jax.runtime import distributed
from vmae_jax.spec import ConfigError, did_you_mean

__all__ = ["LIMITS", "STATUS", "Watchdog", "parse_limits", "watched"]

# Seconds; generous, for what they guard against lasts for ever. 0 is no limit.
LIMITS = {"restore": 3600.0, "compile": 7200.0, "data": 1800.0, "step": 1800.0, "save": 3600.0, "evaluate": 7200.0}
STATUS = 75
_TICK = 0.2  # seconds between two looks


def parse_limits(items: list[str], names: Iterable[str] = LIMITS) -> dict[str, float]:
    """`["step=60", "save=600"]` on top of `LIMITS`.

    Args:
      names: of the phases that the program has.

    Raises:
      ConfigError: an unknown name, or no number of seconds.
    """
    limits = {name: LIMITS[name] for name in names}
    for item in items:
        name, _, value = item.partition("=")
        if name not in limits:
            raise ConfigError(f"--limit={item}: unknown{did_you_mean(name, limits)}; there are {', '.join(limits)}")
        try:
            limits[name] = float(value)
        except ValueError:
            raise ConfigError(f"--limit={item}: seconds, as in {name}={LIMITS[name]:g}; 0 is no limit") from None
    return limits


class Watchdog:
    """A thread that ends the process when a phase passes its limit; use as a context.

    Args:
      limits: phase -> seconds, 0 for none.
      where_are: describes where the other hosts are.
      end: takes the exit status.
    """

    def __init__(
        self,
        limits: Mapping[str, float] = LIMITS,
        *,
        where_are: Callable[[], str] = distributed.whereabouts,
        end: Callable[[int], Any] = os._exit,
    ):
        self._limits, self._where_are, self._end = dict(limits), where_are, end
        self._phases: list[tuple[str, str, float]] = []  # name, detail, since
        self._spent: dict[str, float] = {}
        self._charged = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._asking = 0  # the number of the sign of life that the coordinator has not answered yet; 0 for none
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Watchdog":
        for work in (self._watch, self._show):
            thread = threading.Thread(target=work, name=f"watchdog{work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads[0].join(5.0)  # the other may wait for a coordinator that is gone

    @contextlib.contextmanager
    def phase(self, name: str, detail: str = "") -> Iterator[None]:
        """Limit the time inside; afterwards the surrounding phase starts again."""
        with self._lock:
            self._charge()
            self._phases.append((name, detail or name, time.monotonic()))
        try:
            yield
        finally:
            with self._lock:
                self._charge()
                self._phases.pop()
                if self._phases:
                    self._phases[-1] = (*self._phases[-1][:2], time.monotonic())

    def turn(self, name: str, detail: str) -> None:
        """The innermost phase ends well, and another begins in its place."""
        with self._lock:
            self._charge()
            self._phases[-1] = (name, detail, time.monotonic())

    def spent(self) -> dict[str, float]:
        """Seconds in each phase so far, without those of the phases inside it; "" is outside of all."""
        with self._lock:
            self._charge()
            return dict(self._spent)

    def _charge(self) -> None:
        now = time.monotonic()
        name = self._phases[-1][0] if self._phases else ""
        self._spent[name] = self._spent.get(name, 0.0) + now - self._charged
        self._charged = now

    def current(self) -> tuple[str, str, float] | None:
        """Return the innermost phase, what is done in it and since when (of the monotonic clock)."""
        with self._lock:
            return self._phases[-1] if self._phases else None

    def _watch(self) -> None:
        asked, waited, before = 0, 0.0, time.monotonic()
        while not self._stop.wait(_TICK):
            now = time.monotonic()
            # A process that was itself suspended for long gives the coordinator the time to answer.
            waited = waited + min(now - before, 2 * _TICK) if self._asking and self._asking == asked else 0.0
            asked, before = self._asking, now
            if waited > distributed.patience() and distributed.rank():
                self._deserted(waited)
                return
            current = self.current()
            limit = self._limits.get(current[0], 0.0) if current else 0.0
            if current and limit and time.monotonic() - current[2] > limit:
                self._bark(current[1], limit)
                return

    def _deserted(self, seconds: float) -> None:
        host = f"host {distributed.rank()} ({socket.gethostname()})"
        print(
            f"\nwatchdog: {host}: {distributed.coordinator()}, the coordinator of the job, has not answered for "
            f"{seconds:.0f} s, it is stopped or cut off; this process ends with status {STATUS}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        self._end(STATUS)

    def _bark(self, what: str, limit: float) -> None:
        host = f"host {distributed.rank()} ({socket.gethostname()})"
        print(f"\nwatchdog: {host}: {what} has not ended within {limit:g} s", file=sys.stderr, flush=True)
        where = self._where_are()
        if where:
            print(f"watchdog: {where}", file=sys.stderr, flush=True)
        print(f"watchdog: stacks of {host}; then it ends with status {STATUS}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        sys.stderr.flush()
        self._end(STATUS)

    def _show(self) -> None:
        """Signs of life for the other hosts."""
        count = 0
        while not self._stop.wait(distributed.PERIOD):
            current = self.current()
            count += 1
            self._asking = count
            try:
                distributed.publish(current[1] if current else "between steps", count)
            except RuntimeError:  # the service ends before this thread
                return
            finally:
                self._asking = 0


def watched(run: Any, dog: Watchdog) -> Any:
    """Return what the training loop works with (`train.loop.Run`), each part under its own limit.

    Args:
      run: of the loop; its batches limit the wait for them by themselves (`train.device.prefetch_to_device`).
      dog: the watchdog.
    """

    def preempted(at: int) -> bool:
        asked = run.preempted(at)
        dog.turn("step", f"step {at + 1}")  # from here to the next call: batch, step, metrics
        return asked

    def go_back(refused: Any, at: int) -> tuple[Any, int, Any]:
        with dog.phase("restore", f"going back from step {at}"):
            return run.go_back(refused, at)

    def limited(hook: Any) -> Any:
        def run(state: Any, at: int) -> Any:
            with dog.phase("evaluate", f"{hook.name} at step {at}"):
                return hook.run(state, at)

        return hook._replace(run=run)

    return dataclasses.replace(
        run,
        go_back=go_back if run.go_back is not None else None,
        saver=_Saver(run.saver, dog),
        preempted=preempted,
        hooks=[limited(hook) for hook in run.hooks],
    )


class _Saver:
    """A saver of checkpoints whose work is a phase."""

    def __init__(self, saver: Any, watchdog: Watchdog):
        self._saver, self._watchdog = saver, watchdog

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool:
        with self._watchdog.phase("save", f"the save of step {step}"):
            return self._saver.save(step, state, meta)

    def poll(self) -> list[int]:
        return self._saver.poll()

    def wait(self) -> list[int]:
        with self._watchdog.phase("save", "the end of a save"):
            return self._saver.wait()
