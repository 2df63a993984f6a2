"""The one loop: steps, and what happens between them. What it does it with is handed in.

The loop imports no source of data, no writer, no evaluator: a command (`vmae train`) or a test
gives it functions, so that it can be read and tested by itself.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from tqdm import tqdm

from vmae_jax.train.state import TrainState
from vmae_jax.types import Batch

__all__ = ["Batches", "Every", "NotFiniteError", "Outcome", "Parts", "Saver", "train"]

RUN_AHEAD = 2  # steps dispatched before the loop waits for an older one: bounds the batches in flight


class NotFiniteError(ArithmeticError):
    """A loss or gradient that is not finite, where `train.on_nonfinite` is "stop"."""


class Batches(Protocol):
    """An endless iterator of device batches."""

    def __iter__(self) -> Iterator[Batch]: ...
    def __next__(self) -> Batch: ...
    @property
    def wait_seconds(self) -> float:
        """Seconds that the consumer has waited for data, in all."""
        ...

    def faults(self) -> list[tuple[str, str, int]]:
        """Broken videos met since the last call: (key, reason, index)."""
        ...


class Saver(Protocol):
    """What the loop asks of checkpoints (`io.checkpoint.Checkpoints`)."""

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool: ...
    def poll(self) -> list[int]: ...
    def wait(self) -> list[int]: ...


@dataclasses.dataclass(frozen=True)
class Every:
    """How often, in steps; None is never (besides the end)."""

    log: int
    save: int
    pictures: int | None = None
    evaluate: int | None = None


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the loop works with.

    Attributes:
      step: (state, batch) -> (state, metrics).
      batches: from the position of the first step on.
      saver: of checkpoints.
      write: takes a row: "kind" train, eval or event, "step", and values.
      flush: puts the rows so far where a kill cannot take them.
      preempted: asked every step; True saves and ends the run.
      meta: (step) -> what a checkpoint says beside the state.
      videos, clips: of one step.
      on_nonfinite: "stop" or "skip".
      pictures, evaluate: (state, step) -> None and -> results; None does without.
      faults: takes the broken videos that were met.
      flops: model FLOPs of one step, for `mfu`; None where the devices' peak is not known.
      peak: FLOPs a second of all devices together.
      show: a progress bar on standard error.
    """

    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
    batches: Batches
    saver: Saver
    write: Callable[[Mapping[str, Any]], None]
    flush: Callable[[], None]
    preempted: Callable[[int], bool]
    meta: Callable[[int], Mapping[str, Any]]
    videos: int
    clips: int
    on_nonfinite: str = "stop"
    pictures: Callable[[TrainState, int], None] | None = None
    evaluate: Callable[[TrainState, int], Mapping[str, float]] | None = None
    faults: Callable[[list[tuple[str, str, int]]], None] | None = None
    flops: float | None = None
    peak: float | None = None
    show: bool = True


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: "done" or "preempted", after which step, with the last row of metrics."""

    status: str
    step: int
    metrics: Mapping[str, float]


def train(state: TrainState, *, start: int, stop: int, every: Every, parts: Parts) -> tuple[TrainState, Outcome]:
    """Trains from step `start` to step `stop`; at the end everything that is due at times is done.

    The last checkpoint comes after the last pictures and evaluation, so that a run whose last step
    is saved has nothing left to do.

    Raises:
      NotFiniteError: a step was not finite and `on_nonfinite` is "stop"; the state had not changed.
    """
    window = _Window(parts, start)
    row: dict[str, float] = {}
    with _bar(start, stop, parts.show) as bar:
        for step in range(start + 1, stop + 1):

            def due(interval: int | None, step: int = step) -> bool:
                return step == stop or (interval is not None and step % interval == 0)

            state, metrics = parts.step(state, next(parts.batches))
            window.add(metrics)
            bar.update()
            if step == start + 1:
                window.first_step_done()
            if due(every.log):
                row = window.close(step)
                parts.write({"kind": "train", "step": step, **row})
                bar.set_postfix_str(_told(row), refresh=False)
                _broken(parts, step)
            if due(every.pictures) or due(every.evaluate) or due(every.save):
                jax.block_until_ready(metrics)  # the steps' own time ends here
            with window.paused():
                if due(every.pictures) and parts.pictures is not None:
                    parts.pictures(state, step)
                if due(every.evaluate) and parts.evaluate is not None:
                    row = row | _evaluate(parts, state, step)
                preempted = parts.preempted(step)
                if due(every.save) or preempted:
                    _save(parts, state, step)
            _tell_saved(parts, parts.saver.poll())
            if preempted and step != stop:
                _tell_saved(parts, parts.saver.wait())
                parts.write({"kind": "event", "step": step, "event": "preempted"})
                return state, Outcome("preempted", step, row)
    _tell_saved(parts, parts.saver.wait())
    return state, Outcome("done", stop, row)


def _bar(start: int, stop: int, show: bool) -> tqdm:
    return tqdm(
        total=stop,
        initial=start,
        unit="step",
        disable=not show,
        dynamic_ncols=True,
        mininterval=0.5,
        smoothing=0.1,
    )


class _Window:
    """The steps since the last row: their metrics, still on the device, and the time they took."""

    def __init__(self, parts: Parts, start: int):
        self.parts = parts
        self.step = start
        self.pending: list[dict[str, jax.Array]] = []
        self.in_flight: collections.deque = collections.deque()
        self.waited = parts.batches.wait_seconds
        self.since = time.perf_counter()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        self.pending.append(metrics)
        self.in_flight.append(metrics["loss"])
        if len(self.in_flight) > RUN_AHEAD:
            jax.block_until_ready(self.in_flight.popleft())

    def first_step_done(self) -> None:
        """Waits for the first step, so that compilation is told apart from the speed."""
        jax.block_until_ready(self.pending)
        seconds = time.perf_counter() - self.since
        self.parts.write({"kind": "event", "step": self.step + 1, "event": "first step", "seconds": round(seconds, 3)})
        self.timed_from = 1
        self.waited, self.since = self.parts.batches.wait_seconds, time.perf_counter()

    def paused(self) -> "_Pause":
        return _Pause(self)

    def close(self, step: int) -> dict[str, float]:
        """The row at `step`: its metrics, and the speed since the last row."""
        fetched = jax.device_get(self.pending)
        now = time.perf_counter()
        steps = len(fetched) - getattr(self, "timed_from", 0)
        self.timed_from = 0
        seconds, waited = now - self.since, self.parts.batches.wait_seconds - self.waited
        row = {name: float(value) for name, value in fetched[-1].items() if name != "finite"}
        row["examples_seen"] = step * self.parts.videos
        if steps > 0 and seconds > 0:
            row |= self._speed(steps, seconds, waited)
        first = self.step + 1
        self.step, self.pending, self.waited, self.since = step, [], self.parts.batches.wait_seconds, now
        self._check(first, fetched)
        return row

    def _speed(self, steps: int, seconds: float, waited: float) -> dict[str, float]:
        row = {
            "step_seconds": seconds / steps,
            "examples_per_second": steps * self.parts.videos / seconds,
            "clips_per_second": steps * self.parts.clips / seconds,
            "data_wait_fraction": min(1.0, waited / seconds),
        }
        if self.parts.flops and self.parts.peak:
            row["mfu"] = self.parts.flops * steps / seconds / self.parts.peak
        return row

    def _check(self, first: int, fetched: list[dict[str, np.ndarray]]) -> None:
        """Records every step that was not finite, and stops if it is to."""
        bad = [first + i for i, metrics in enumerate(fetched) if not metrics["finite"]]
        for step in bad:
            values = fetched[step - first]
            loss, norm = float(values["loss"]), float(values["grad_norm"])
            self.parts.write({"kind": "event", "step": step, "event": "not finite", "loss": loss, "grad_norm": norm})
        if bad and self.parts.on_nonfinite == "stop":
            values = fetched[bad[0] - first]
            raise NotFiniteError(
                f"step {bad[0]}: the loss or its gradient is not finite (loss {float(values['loss'])}, "
                f"gradient norm {float(values['grad_norm'])}); the parameters were left as before it. "
                f"Look at the data and the learning rate, or set train.on_nonfinite=skip"
            )


class _Pause:
    """Takes the time of pictures, evaluations and saves out of the speed of the steps."""

    def __init__(self, window: _Window):
        self.window = window

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self.window.since += time.perf_counter() - self.began


def _evaluate(parts: Parts, state: TrainState, step: int) -> dict[str, float]:
    assert parts.evaluate is not None
    results = dict(parts.evaluate(state, step))
    if results:
        parts.write({"kind": "eval", "step": step, **results})
    return results


def _save(parts: Parts, state: TrainState, step: int) -> None:
    parts.flush()  # a resumed run keeps the rows up to its checkpoint, so they must be there before it is
    parts.saver.save(step, state, parts.meta(step))


def _tell_saved(parts: Parts, steps: list[int]) -> None:
    """Says "saved" of a step only now that it is committed."""
    for step in steps:
        parts.write({"kind": "event", "step": step, "event": "saved"})


def _broken(parts: Parts, step: int) -> None:
    """Counts the broken videos met since the last row among the metrics, and hands them on."""
    faults = parts.batches.faults()
    if faults:
        parts.write({"kind": "event", "step": step, "event": "broken videos", "count": len(faults)})
        if parts.faults is not None:
            parts.faults(faults)


def _told(row: Mapping[str, float]) -> str:
    told = f"loss {row['loss']:.4f}"
    if "clips_per_second" in row:
        told += f", {row['clips_per_second']:.1f} clips/s, waiting for data {row['data_wait_fraction']:.0%}"
    return told
