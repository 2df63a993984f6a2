"""The course of a run: how it begins, how it rolls back, and which batches follow."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax

from vmae_jax.commands.begin_from import begin_from, keep
from vmae_jax.commands.experiment import Experiment
from vmae_jax.commands.rollback import Skip, in_a_row, read_skips, record
from vmae_jax.data.order import apart, past
from vmae_jax.io import clock
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.paths import Workdir
from vmae_jax.io.writers import Writers, read_rows
from vmae_jax.runtime import goodput, watchdog
from vmae_jax.train import sharding
from vmae_jax.train.device import host_rows, prefetch_to_device
from vmae_jax.train.refused import COLLAPSE, CollapseError, Refused, too_often
from vmae_jax.train.state import TrainState
from vmae_jax.types import Batch

__all__ = ["Course", "began_at", "devices"]

log = logging.getLogger(__name__)


class Course:
    """Begins a run or rolls it back, and provides the batches from any step on.

    Skipped windows are written to `skipped.jsonl` before the run rolls back, so a run that is killed at
    any moment continues with the same data.

    Attributes:
      placement: of the state's arrays, after `begin`.
      planned: the steps of the whole run when the restored checkpoint was saved; None for a fresh run.

    Args:
      made: the experiment.
      tx: its optimizer.
      data: its opened source.
      steps: of the whole run.
      workdir: of the run.
      saver: its checkpoints.
      writers: of its events.
      account: of its time.
      dog: limits the wait for data.
    """

    def __init__(
        self,
        made: Experiment,
        tx: Any,
        data: Any,
        *,
        steps: int,
        workdir: Workdir,
        saver: Checkpoints,
        writers: Writers,
        account: goodput.Account,
        dog: watchdog.Watchdog,
    ):
        self._made, self._init, self._data, self._steps = made, made.make_init(tx), data, steps
        self._workdir, self._saver, self._writers, self._account = workdir, saver, writers, account
        self._dog = dog
        self._skips = read_skips(workdir)
        self._stream: Any = None
        self.placement: sharding.Placement | None = None
        self.planned: int | None = None

    def begin(self) -> tuple[TrainState, int]:
        """Return the newest good checkpoint, or a fresh state, and the step to continue from."""
        return self._newest(read_rows(self._workdir.metrics) if jax.process_index() == 0 else [])

    def batch_of(self, step: int) -> int:
        """Return the number of the batch after `step` steps, which follows from the skipped windows alone."""
        return past(step, apart([skip[:2] for skip in self._skips]))

    def batches(self, start: int) -> Any:
        """Return device batches from step `start` on, and close earlier ones."""
        self.close()
        place = sharding.batch_sharding(self._made.mesh)
        clips, videos = self._made.loader.clips_per_step, self._made.loader.global_batch

        def waiting(taken: int) -> AbstractContextManager[None]:
            return self._dog.phase("data", f"waiting for the data of step {start + taken + 1}")

        stream = self._data.batches(
            rows=host_rows(place, clips),
            seed=self._made.seed,
            start=start * videos,
            skips=[(skip.first * videos, skip.last * videos) for skip in self._skips],
        )
        method = self._made.method
        check = _checks(method.check, None if start else method.check_first)
        self._stream = prefetch_to_device(stream, place, clips=clips, check=check, waiting=waiting)
        return self._stream

    def faults(self) -> list[Any]:
        """Return the videos of the batches so far that could not be read; after an error, of all."""
        return [] if self._stream is None else self._stream.faults()

    def close(self) -> None:
        """Close the current batches."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def go_back(self, refused: Refused, at: int) -> tuple[TrainState, int, Any]:
        """Return to the newest good checkpoint and skip the data up to step `at`, which include the refused step.

        Checkpoints from after features began to collapse are moved aside.

        Raises:
          refused.NotFiniteError, refused.SpikeError, refused.CollapseError: if it has already done so
            `train.rollbacks` times in a row, or no checkpoint is from before a collapse.
        """
        self.close()
        saved = self._saver.wait()
        if refused.why == COLLAPSE:
            self._leave(refused)
        state, start = self._newest(None)
        for step in saved:
            self._writers.event(step, "saved")
        again = in_a_row(self._skips, start)
        if again >= self._made.train.rollbacks:
            raise too_often(refused, start, again)
        skip = Skip(self.batch_of(start), self.batch_of(at - 1) + 1, start, f"step {refused.step}: {refused.why}")
        self._record(skip)
        log.warning(
            "step %d: %s (%s): rolled back to step %d, skipping batches %d to %d (%d in a row)",
            refused.step, refused.why, refused, start, skip.first, skip.last - 1, again + 1,
        )  # fmt: skip
        self._writers.event(
            start,
            "rolled back",
            **{**refused.details, "reason": skip.reason},
            batches=[skip.first, skip.last - 1],
            in_a_row=again + 1,
        )
        self._account.back(start)
        return state, start, self.batches(start)

    def _leave(self, refused: Refused) -> None:
        """Move the checkpoints of collapsing features aside; raise CollapseError if no other is left."""
        if self._saver.latest(before=refused.step) is None:
            raise CollapseError(
                f"the features collapsed after step {refused.step - 1} ({refused}), and there is no checkpoint from "
                f"before to roll back to: evaluate more often, save more often, or keep more (checkpoint.keep_last)"
            )
        self._saver.abandon(refused.step)

    def _record(self, skip: Skip) -> None:
        self._skips = [*self._skips, skip]
        if jax.process_index() == 0:
            record(self._workdir, skip)

    def _newest(self, rows: Sequence[Any] | None) -> tuple[TrainState, int]:
        """Return the state to continue from, and its step; `rows` are those of earlier attempts, when a run begins."""
        if self._saver.latest() is None:
            self._carry(rows, 0)
            return self._fresh(), 0
        target, self.placement = self._made.abstract_state(self._init)
        restored = self._saver.restore(target)
        start = int(restored.step)
        self.planned = restored.meta.get("steps")
        self._carry(rows, start)
        self._writers.truncate_after(start)
        for damaged, reason in restored.skipped:
            self._writers.event(start, "checkpoint damaged", checkpoint=damaged, reason=reason)
        return restored.state, start

    def _carry(self, rows: Sequence[Any] | None, start: int) -> None:
        """Add the time of earlier attempts to the account; a roll-back (`rows` is None) keeps it."""
        if rows is not None:
            began = goodput.Moment(**clock.now(ago=self._account.running()))
            self._account.carry(goodput.carried(rows, start, began))
            self._account.mark(start)

    def _fresh(self) -> TrainState:
        self._writers.truncate_after(-1)
        spent = self._account.seconds()
        if spent["lost"] or spent["down"]:  # the rows of earlier attempts, which held it, are gone
            self._writers.event(0, goodput.EVENT, **{kind: round(seconds, 3) for kind, seconds in spent.items()})
        began = time.perf_counter()
        made = self._made
        state, self.placement = sharding.create(self._init, jax.random.key(made.seed), made.batch_spec, made.mesh)
        jax.block_until_ready(state.params)
        if made.init_from:
            state, reports = begin_from(state, made.init_from, made.config)
            for report in reports:
                log.info("%s", report)
            if jax.process_index() == 0:
                keep(self._workdir.init_from, reports)
                log.info("every array: %s", self._workdir.init_from)
        seconds = round(time.perf_counter() - began, 3)
        self._writers.event(0, "started", devices=devices(), steps=self._steps, seconds=seconds, **began_at())
        return state


def began_at() -> dict[str, Any]:
    """Return the time of the steady clock, for the first event of an attempt."""
    moment = clock.now()
    return {"boot": moment["boot"], "uptime": moment["uptime"]}


def devices() -> str:
    """Return a description of the devices."""
    found = jax.devices()
    return f"{len(found)} x {found[0].device_kind}"


def _checks(
    every: Callable[[Batch], None] | None, first: Callable[[Batch], None] | None
) -> Callable[[Batch], None] | None:
    """Return a check of every batch, before which the first one has another."""
    if first is None:
        return every
    due = [first]

    def check(batch: Batch) -> None:
        if due:
            due.pop()(batch)
        if every is not None:
            every(batch)

    return check
