"""The training loop: steps, and what happens between them.

The loop imports no source of data, no writer and no evaluator. A command (`vmae train`) or a test passes them in, so
that it can be read and tested by itself.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
from tqdm import tqdm

from vmae_jax.train.device import HostBatches
from vmae_jax.train.refused import Refused, error
from vmae_jax.train.rows import Window, Work
from vmae_jax.train.state import TrainState
from vmae_jax.types import Batch

__all__ = ["Batches", "Hook", "Journal", "Outcome", "Run", "Saver", "train"]


class Batches(HostBatches, Protocol):
    """The same batches on the devices (`train.device.Prefetch`)."""

    @property
    def wait_seconds(self) -> float:
        """Seconds that the consumer has waited for data, in all."""
        ...


class Saver(Protocol):
    """The part of `io.checkpoint.Checkpoints` that the loop uses."""

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool: ...
    def poll(self) -> list[int]: ...
    def wait(self) -> list[int]: ...


class Journal(Protocol):
    """Records the rows of a run."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Take a row: "kind" (train, eval or event), "step", and values."""
        ...

    def flush(self) -> None:
        """Write the rows so far to storage, so that they survive a kill."""
        ...

    def spent(self) -> Mapping[str, float]:
        """Return the seconds of wall time so far by use, including earlier attempts."""
        ...


class Hook(NamedTuple):
    """A function that runs between two steps, after the last one, and before a save of the same step.

    Attributes:
      name: for messages, such as "evaluation".
      every: steps between two calls; None for only the last step.
      run: (state, step) -> results, which become a row of kind "eval", or None. It may raise, which ends the run.
      at_start: run before the first step of a new run as well.
    """

    name: str
    every: int | None
    run: Callable[[TrainState, int], Mapping[str, float] | None]
    at_start: bool = False


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts that the loop works with.

    Attributes:
      step: (state, batch) -> (state, metrics).
      batches: from the position of the first step on.
      saver: of checkpoints.
      journal: of the rows.
      work: of one step.
      log_every, save_every: steps between two rows of metrics, and between two checkpoints.
      hooks: run in this order.
      preempted: called with every step; True saves and ends the run.
      meta: (step) -> the metadata of a checkpoint.
      faults: (step, batches, videos): records the unreadable videos of the last batches; called at
        the same steps on every host. It may raise, which ends the run.
      on_nonfinite: "stop", "skip" or "rollback".
      collapsed: (step, results of a hook) -> the collapse of features that they show, or None; the same on every host.
      on_collapse: "report", "stop" or "rollback".
      go_back: for "rollback": (the refused step, the last step) -> state, its step, and the batches from
        there on.
      show: whether to show a progress bar on standard error.
    """

    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
    batches: Batches
    saver: Saver
    journal: Journal
    work: Work
    log_every: int
    save_every: int
    hooks: Sequence[Hook] = ()
    preempted: Callable[[int], bool] = lambda step: False
    meta: Callable[[int], Mapping[str, Any]] = lambda step: {}
    faults: Callable[[int, int, Sequence[Any]], None] = lambda step, batches, videos: None
    on_nonfinite: str = "stop"
    collapsed: Callable[[int, Mapping[str, float]], Refused | None] = lambda step, results: None
    on_collapse: str = "report"
    go_back: Callable[[Refused, int], tuple[TrainState, int, Batches]] | None = None
    show: bool = True


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: "done" or "preempted", after which step, with the last row of metrics."""

    status: str
    step: int
    metrics: Mapping[str, float]


def train(state: TrainState, *, start: int, stop: int, run: Run) -> tuple[TrainState, Outcome]:
    """Train from step `start` to step `stop`; every hook runs after the last step.

    The last checkpoint is saved after the last hooks, so a run whose last step is saved is complete.
    A step is saved only after checking that no update up to it was refused, unless `on_nonfinite` allows that.

    Raises:
      refused.NotFiniteError: if a step was not finite and `on_nonfinite` is "stop"; the state had not changed.
      refused.SpikeError: the same for a spike.
      refused.CollapseError: if features have collapsed and `on_collapse` is "stop".
    """
    if start == 0 and stop > 0:
        for hook in run.hooks:
            if hook.at_start:
                run.collapsed(0, _run_hook(run, hook, state, 0))  # never a collapse, but a standard for later ones
    with _bar(start, stop, run.show) as bar:
        while True:
            end = _Stretch(run, start, stop, bar).train(state)
            if not isinstance(end, _Back):
                return end
            del state  # frees its buffers for the restored ones
            assert run.go_back is not None
            state, start, batches = run.go_back(end.refused, end.step)
            run = dataclasses.replace(run, batches=batches)
            bar.n = start


class _Back(NamedTuple):
    """The end of a stretch that is rolled back: the first refused step, and the last step."""

    refused: Refused
    step: int


class _Stretch:
    """The steps from a new or restored state to the end of the run, or to a step that is rolled back."""

    def __init__(self, run: Run, start: int, stop: int, bar: tqdm):
        self.run, self.start, self.stop, self.bar = run, start, stop, bar
        self.window = Window(run.work, run.batches, start)
        self.counted = start  # the step up to which unreadable videos were reported
        self.last: dict[str, float] = {}

    def train(self, state: TrainState) -> "tuple[TrainState, Outcome] | _Back":
        run = self.run
        for step in range(self.start + 1, self.stop + 1):
            state, metrics = run.step(state, next(run.batches))
            self.window.add(metrics)
            self.bar.update()
            if step == self.start + 1:
                self._event(step, "first step", seconds=round(self.window.first_step_done(), 3))
            preempted = run.preempted(step)
            saving = self.due(run.save_every, step) or preempted
            looking = self.due(run.log_every, step) or saving
            refused = self._look() if looking else None
            if self.due(run.log_every, step) and refused is None:
                self._row(step)
            if looking:
                self._faults(step)
            if refused is not None:
                return _Back(refused, step)
            hooks = [hook for hook in run.hooks if self.due(hook.every, step)]
            if hooks or saving:
                jax.block_until_ready(metrics)  # the steps' own time ends here
            with self.window.paused():
                collapse = self._hooks(hooks, state, step)
                if saving and collapse is None:
                    self._save(state, step)
            if collapse is not None:
                return _Back(collapse, step)
            self._report_saved(run.saver.poll())
            if preempted and step != self.stop:
                return state, self._end("preempted", step)
        return state, self._end("done", self.stop)

    def due(self, interval: int | None, step: int) -> bool:
        return step == self.stop or (interval is not None and step % interval == 0)

    def _look(self) -> Refused | None:
        """Record every step that was refused; raise if the run is to stop, or return the first to go back."""
        refused = self.window.look()
        for bad in refused:
            self._event(bad.step, bad.why, **bad.details)
        if refused and self.run.on_nonfinite == "stop":
            raise error(refused[0])
        return refused[0] if refused and self.run.on_nonfinite == "rollback" else None

    def _hooks(self, hooks: Sequence[Hook], state: TrainState, step: int) -> Refused | None:
        """Run hooks; if their results show a collapse, record it, and raise if the run is to stop, or return it."""
        run, found = self.run, None
        for hook in hooks:
            results = _run_hook(run, hook, state, step)
            self.last |= results
            found = found or run.collapsed(step, results)
        if found is None:
            return None
        self._event(step, found.why, action=run.on_collapse, **found.details)
        if run.on_collapse == "stop":
            raise error(found)
        return found if run.on_collapse == "rollback" else None

    def _row(self, step: int) -> None:
        self.last = self.window.row()
        spent = self.run.journal.spent()
        if spent:
            self.last["goodput"] = _goodput(spent)
        self.run.journal.write({"kind": "train", "step": step, **self.last})
        self.bar.set_postfix_str(_shown(self.last), refresh=False)

    def _faults(self, step: int) -> None:
        """Report the unreadable videos since the last call."""
        self.run.faults(step, step - self.counted, self.run.batches.faults())
        self.counted = step

    def _save(self, state: TrainState, step: int) -> None:
        self._time_spent(step)
        self.run.journal.flush()  # a resumed run keeps the rows up to its checkpoint, so write them first
        self.run.saver.save(step, state, self.run.meta(step))

    def _report_saved(self, steps: list[int]) -> None:
        """Write the event "saved" of committed steps."""
        for step in steps:
            self._event(step, "saved")

    def _time_spent(self, step: int) -> None:
        spent = self.run.journal.spent()
        if spent:
            self._event(step, "time spent", **{name: round(seconds, 3) for name, seconds in spent.items()})

    def _end(self, status: str, step: int) -> Outcome:
        self._report_saved(self.run.saver.wait())
        self._time_spent(step)
        if status != "done":
            self._event(step, status)
        return Outcome(status, step, self.last)

    def _event(self, step: int, name: str, **details: Any) -> None:
        self.run.journal.write({"kind": "event", "step": step, "event": name, **details})


def _run_hook(run: Run, hook: Hook, state: TrainState, step: int) -> dict[str, float]:
    """Run a hook; write its results as a row, and return them."""
    results = dict(hook.run(state, step) or {})
    if results:
        run.journal.write({"kind": "eval", "step": step, **results})
    return results


def _goodput(spent: Mapping[str, float]) -> float:
    """Return the share of wall time in steps whose result was kept."""
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


def _shown(row: Mapping[str, float]) -> str:
    text = f"loss {row['loss']:.4f}"
    if "clips_per_second" in row:
        text += f", {row['clips_per_second']:.1f} clips/s, waiting for data {row['data_wait_fraction']:.0%}"
    return text
