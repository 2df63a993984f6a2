"""The one loop: steps, and what happens between them. What it does it with is handed in.

The loop imports no source of data, no writer, no evaluator: a command (`vmae train`) or a test
gives it functions, so that it can be read and tested by itself.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
from tqdm import tqdm

from vmae_jax.train.rows import Refused, Window
from vmae_jax.train.state import TrainState
from vmae_jax.types import Batch

__all__ = ["Batches", "Every", "NotFiniteError", "Outcome", "Parts", "Saver", "SpikeError", "train"]


class NotFiniteError(ArithmeticError):
    """A loss or gradient that is not finite, where `train.on_nonfinite` does not go on."""


class SpikeError(ArithmeticError):
    """A loss or gradient far above those before it, where `train.on_nonfinite` does not go on."""


class Batches(Protocol):
    """An endless iterator of device batches."""

    def __iter__(self) -> Iterator[Batch]: ...
    def __next__(self) -> Batch: ...
    @property
    def wait_seconds(self) -> float:
        """Seconds that the consumer has waited for data, in all."""
        ...

    def faults(self) -> Sequence[Any]:
        """Return the videos of the batches so far that could not be read, each once."""
        ...


class Saver(Protocol):
    """What the loop asks of checkpoints (`io.checkpoint.Checkpoints`)."""

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool: ...
    def poll(self) -> list[int]: ...
    def wait(self) -> list[int]: ...


@dataclasses.dataclass(frozen=True)
class Every:
    """How often, in steps; None is never (besides the end). `at_start`: evaluate before the first step as well."""

    log: int
    save: int
    pictures: int | None = None
    evaluate: int | None = None
    compare: int | None = None
    at_start: bool = False


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
      on_nonfinite: "stop", "skip" or "rollback".
      go_back: (the refused step, the last one done) -> state, its step, and batches from there on;
        for "rollback".
      compare: (state, step), raises where the copies of a parameter on several devices differ.
      spent: seconds of wall time so far by what they went into, earlier attempts included.
      pictures, evaluate: (state, step) -> None and -> results; None does without.
      faults: (step, batches, videos): takes the videos that could not be read in so many batches; called at
        the same steps on every host. It may raise, which ends the run.
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
    go_back: Callable[[Refused, int], tuple[TrainState, int, Batches]] | None = None
    compare: Callable[[TrainState, int], None] | None = None
    spent: Callable[[], Mapping[str, float]] | None = None
    pictures: Callable[[TrainState, int], None] | None = None
    evaluate: Callable[[TrainState, int], Mapping[str, float]] | None = None
    faults: Callable[[int, int, Sequence[Any]], None] | None = None
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
    is saved has nothing left to do. No step is saved before it is known that its update, and those
    before it, were not refused (or may be, by `on_nonfinite`).

    Raises:
      NotFiniteError: a step was not finite and `on_nonfinite` is "stop"; the state had not changed.
      SpikeError: the same of a spike.
    """
    if every.at_start and start == 0 and stop > 0:
        _evaluate(parts, state, 0)
    with _bar(start, stop, parts.show) as bar:
        while True:
            end = _Stretch(parts, every, start, stop, bar).run(state)
            if not isinstance(end, _Back):
                return end
            del state  # its buffers are not needed, and the restored ones want their place
            assert parts.go_back is not None
            state, start, batches = parts.go_back(end.refused, end.step)
            parts = dataclasses.replace(parts, batches=batches)
            bar.n = start


class _Back(NamedTuple):
    """A stretch that ends in going back: the first refused step, and the last one done."""

    refused: Refused
    step: int


class _Stretch:
    """The steps from a state that is there (new, restored) to the end, or to a step that is not to be."""

    def __init__(self, parts: Parts, every: Every, start: int, stop: int, bar: tqdm):
        self.parts, self.every, self.start, self.stop, self.bar = parts, every, start, stop, bar
        self.window = Window(parts, start)
        self.counted = start  # the step up to which unreadable videos were handed on
        self.last: dict[str, float] = {}

    def run(self, state: TrainState) -> "tuple[TrainState, Outcome] | _Back":
        parts, every = self.parts, self.every
        for step in range(self.start + 1, self.stop + 1):
            state, metrics = parts.step(state, next(parts.batches))
            self.window.add(metrics)
            self.bar.update()
            if step == self.start + 1:
                seconds = self.window.first_step_done()
                parts.write({"kind": "event", "step": step, "event": "first step", "seconds": round(seconds, 3)})
            preempted = parts.preempted(step)
            saving = self.due(every.save, step) or preempted
            looking = self.due(every.log, step) or saving
            refused = self._look() if looking else None
            if self.due(every.log, step) and refused is None:
                self._row(step)
            if looking:
                self._faults(step)
            if refused is not None:
                return _Back(refused, step)
            if self.due(every.pictures, step) or self.due(every.evaluate, step) or saving:
                jax.block_until_ready(metrics)  # the steps' own time ends here
            with self.window.paused():
                self._between(state, step)
                if saving:
                    self._save(state, step)
            _tell_saved(parts, parts.saver.poll())
            if preempted and step != self.stop:
                return state, self._end("preempted", step)
        return state, self._end("done", self.stop)

    def due(self, interval: int | None, step: int) -> bool:
        return step == self.stop or (interval is not None and step % interval == 0)

    def _look(self) -> Refused | None:
        """Records every step that was refused; stops if it is to, or returns the first to go back."""
        refused = self.window.look()
        for bad in refused:
            event = {"kind": "event", "step": bad.step, "event": bad.why}
            self.parts.write(event | {"loss": bad.loss, "grad_norm": bad.grad_norm})
        if refused and self.parts.on_nonfinite == "stop":
            raise _error(refused[0])
        return refused[0] if refused and self.parts.on_nonfinite == "rollback" else None

    def _row(self, step: int) -> None:
        self.last = self.window.row()
        if self.parts.spent is not None:
            self.last["goodput"] = _goodput(self.parts.spent())
        self.parts.write({"kind": "train", "step": step, **self.last})
        self.bar.set_postfix_str(_told(self.last), refresh=False)

    def _faults(self, step: int) -> None:
        """Hands on the videos that could not be read since the last call."""
        if self.parts.faults is not None:
            self.parts.faults(step, step - self.counted, self.parts.batches.faults())
        self.counted = step

    def _between(self, state: TrainState, step: int) -> None:
        """Pictures, evaluation, the comparison of replicas: what comes before a save of the same step."""
        parts, every = self.parts, self.every
        if parts.pictures is not None and self.due(every.pictures, step):
            parts.pictures(state, step)
        if parts.evaluate is not None and self.due(every.evaluate, step):
            self.last = self.last | _evaluate(parts, state, step)
        if parts.compare is not None and self.due(every.compare, step):
            parts.compare(state, step)

    def _save(self, state: TrainState, step: int) -> None:
        self._time_spent(step)
        self.parts.flush()  # a resumed run keeps the rows up to its checkpoint, so they must be there before it is
        self.parts.saver.save(step, state, self.parts.meta(step))

    def _time_spent(self, step: int) -> None:
        if self.parts.spent is not None:
            spent = {name: round(seconds, 3) for name, seconds in self.parts.spent().items()}
            self.parts.write({"kind": "event", "step": step, "event": "time spent", **spent})

    def _end(self, status: str, step: int) -> Outcome:
        _tell_saved(self.parts, self.parts.saver.wait())
        self._time_spent(step)
        if status != "done":
            self.parts.write({"kind": "event", "step": step, "event": status})
        return Outcome(status, step, self.last)


def _error(bad: Refused) -> ArithmeticError:
    told = f"loss {bad.loss}, gradient norm {bad.grad_norm}"
    if bad.why == "spike":
        return SpikeError(
            f"step {bad.step}: the loss or its gradient stands far above those before it ({told}); the parameters "
            f"were left as before it. Look at the data, set train.on_nonfinite to skip or rollback, or train.spikes "
            f"to another limit"
        )
    return NotFiniteError(
        f"step {bad.step}: the loss or its gradient is not finite ({told}); the parameters were left as before it. "
        f"Look at the data and the learning rate, or set train.on_nonfinite to skip or rollback"
    )


def _evaluate(parts: Parts, state: TrainState, step: int) -> dict[str, float]:
    """The results of an evaluation, written as a row; {} where nothing evaluates."""
    results = dict(parts.evaluate(state, step)) if parts.evaluate is not None else {}
    if results:
        parts.write({"kind": "eval", "step": step, **results})
    return results


def _goodput(spent: Mapping[str, float]) -> float:
    """The share of all wall time that went into steps whose result was kept."""
    return spent["trained"] / max(sum(spent.values()), 1e-9)


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


def _tell_saved(parts: Parts, steps: list[int]) -> None:
    """Says "saved" of a step only now that it is committed."""
    for step in steps:
        parts.write({"kind": "event", "step": step, "event": "saved"})


def _told(row: Mapping[str, float]) -> str:
    told = f"loss {row['loss']:.4f}"
    if "clips_per_second" in row:
        told += f", {row['clips_per_second']:.1f} clips/s, waiting for data {row['data_wait_fraction']:.0%}"
    return told
