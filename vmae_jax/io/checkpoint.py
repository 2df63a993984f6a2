"""Checkpoints that are complete or absent, and verified when they are read.

Orbax writes them (asynchronously, sharded, atomically). This module adds guarantees for a run: a fingerprint of
every leaf, checked after each restore; "saved" only after the commit; leaves, shapes and dtypes are compared, never
cast or filled in; frozen networks are stored once for all steps (`shared`); a damaged newest step is skipped with a
warning; and no state with NaN or infinity is written.
"""

import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

from vmae_jax.io import aside, fingerprint, layout, shared, store
from vmae_jax.io.agreement import Agreement, PeerSaveError
from vmae_jax.io.failures import in_one_line
from vmae_jax.io.paths import absolute
from vmae_jax.io.steps import META, STATE, whole_steps
from vmae_jax.io.stored import (
    DamagedCheckpointError,
    common,
    locate,
    read_meta,
    read_newest,
    read_tree,
    restore_step,
)
from vmae_jax.spec import ConfigError

__all__ = [
    "Checkpoints", "DamagedCheckpointError", "NotFiniteError", "Restored", "SaveError", "locate", "read_meta",
    "read_newest", "read_tree",
]  # fmt: skip

log = logging.getLogger(__name__)
_CLOSING = 10.0  # seconds to wait at the end for the outcome of a save on other hosts
SLOW = 10.0  # seconds after which training that waits for a save logs why


class SaveError(RuntimeError):
    """A step could not be saved; earlier checkpoints are untouched.

    Attributes:
      step: that step.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class NotFiniteError(ArithmeticError):
    """A state with NaN or infinite leaves was refused."""


class Restored(NamedTuple):
    """The result of `Checkpoints.restore`.

    Attributes:
      state: the tree of the target, on the target's shardings.
      meta: as passed to `save`.
      step: the step it was saved at.
      skipped: newer, damaged steps, with the reasons.
    """

    state: Any
    meta: dict[str, Any]
    step: int
    skipped: list[tuple[int, str]]


class Checkpoints:
    """The checkpoints of a run: `save` while training, `restore` to resume.

    Nothing is written, not even a folder, before the first `save`, so readers can use it too.

    Args:
      path: the folder, local or gs://.
      keep_last: number of newest steps to keep.
      keep_every: also keep the steps divisible by it; None keeps no others.
      asynchronous: write in the background; `poll` returns the committed steps.
      check_finite: refuse a state with NaN or infinite leaves.
    """

    def __init__(
        self,
        path: epath.PathLike,
        *,
        keep_last: int = 3,
        keep_every: int | None = None,
        asynchronous: bool = True,
        check_finite: bool = True,
    ):
        if keep_last < 1 or (keep_every is not None and keep_every < 1):
            raise ConfigError(f"keep_last and keep_every must be at least 1, got {keep_last} and {keep_every}")
        in_one_line()
        self.path = absolute(path)
        self._keep_last, self._keep_every = keep_last, keep_every
        self._asynchronous, self._check_finite = asynchronous, check_finite
        self._manager: ocp.CheckpointManager | None = None
        self._agreement: Agreement | None = None  # made by the first save
        self._own = False  # this host's part of the pending save is done
        self._pending: int | None = None  # being written, since `_began`
        self._began = 0.0
        self._saved: list[int] = []  # committed by this object
        self._news: list[int] = []  # those not returned by `poll` yet
        self._damaged: set[int] = set()

    def steps(self) -> list[int]:
        """Return the complete, committed steps, ascending."""
        return whole_steps(self.path)

    def latest(self, before: int | None = None) -> int | None:
        """Return the newest complete step (below `before`), the same on every process, or None.

        Waits for the one being written, if any.

        Raises:
          SaveError: if that failed.
        """
        self._settle(block=True)
        return max((step for step in common(self.steps()) if before is None or step < before), default=None)

    def abandon(self, step: int) -> None:
        """Move the steps at or after `step` to `aside/`, after waiting for the one being written, if any."""
        self._settle(block=True)
        self._move_aside(step)
        self._saved = [number for number in self._saved if number < step]

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool:
        """Start to save `state`; `poll` or `wait` return its step once it is committed.

        Blocks while an earlier save is still being written, and until the arrays are copied off
        the devices; then they may be donated. Steps at or after `step` that an abandoned run
        left here, and damaged or half-deleted steps, are moved to `aside/` first, never deleted.

        Args:
          step: number of steps up to `state`.
          state: any pytree of arrays.
          meta: JSON-able values to store with it, such as the data position.

        Returns:
          False if this object has already saved or restored this step.

        Raises:
          NotFiniteError: if a leaf is not finite.
          SaveError: if this save could not be started, or the one before was not committed.
        """
        self._warn_if_slow()
        self._settle(block=True)
        if step in self._saved:
            return False
        leaves = layout.flat(state)
        found = fingerprint.examine(list(leaves.values()))
        bad = {name: count for name, count in zip(leaves, found.not_finite, strict=True) if count}
        if bad and self._check_finite:
            name, count = next(iter(bad.items()))
            raise NotFiniteError(
                f"step {step} is not saved: {name} has {count} values that are not finite, {len(bad)} leaves in all"
            )
        table = layout.describe(leaves, found.fingerprints)
        frozen, still = shared.holder(self.path / str(step), table)
        stored = layout.nest({n: leaf for n, leaf in leaves.items() if not table[n].empty and n not in still})
        args = ocp.args.Composite(
            **{
                STATE: ocp.args.StandardSave(stored),
                META: ocp.args.JsonSave(layout.document(step, meta, table)),
            }
        )
        self._pending, self._own, self._began = step, False, time.monotonic()
        agreement = self._agreement = self._agreement or Agreement()
        agreement.begin()
        try:
            self._move_aside(step)
            shared.write(frozen, {name: leaves[name] for name in still}, agreement.barrier)
            if jax.process_count() > 1:
                store.probe(self.path)
                agreement.ready()
            if not self._open().save(step, args=args, force=True):
                raise RuntimeError("the checkpoint manager declined")
        except Exception as error:
            self._fail(error)
        self._settle(block=not self._asynchronous)
        return True

    def poll(self) -> list[int]:
        """Return the steps committed since the last call, without blocking.

        Raises:
          SaveError: if a save has failed since then.
        """
        return self._collect(block=False)

    def wait(self) -> list[int]:
        """Wait until nothing is being written, then `poll`."""
        return self._collect(block=True)

    def restore(self, abstract_state: Any, step: int | None = None) -> Restored:
        """Read a step onto the shardings of `abstract_state`, and verify it.

        Args:
          abstract_state: a tree of arrays or `jax.ShapeDtypeStruct`s with shardings (without
            one: this process's first device), with exactly the saved leaves.
          step: a step; None for the newest that is not damaged.

        Raises:
          ConfigError: if there is no such step, or leaves, shapes or dtypes differ.
          DamagedCheckpointError: if that step, or every step, is damaged.
        """
        self._settle(block=True)
        steps = common(self.steps())
        if step is not None and step not in steps:
            raise ConfigError(f"{self.path} has no checkpoint {step}; it has {_listed(steps)}")
        if not steps:
            raise ConfigError(f"{self.path} has no checkpoint")
        skipped: list[tuple[int, str]] = []
        for candidate in [step] if step is not None else sorted(steps, reverse=True):
            try:
                state, meta = restore_step(self.path / str(candidate), candidate, abstract_state)
            except DamagedCheckpointError as error:
                skipped.append((candidate, str(error)))
                log.warning("checkpoint %d of %s is damaged: %s", candidate, self.path, error)
                continue
            self._damaged.update(number for number, _ in skipped)
            # Later steps belong to an abandoned continuation.
            self._saved = [*(number for number in self._saved if number < candidate), candidate]
            return Restored(state, meta, candidate, skipped)
        reasons = "; ".join(f"step {number}: {reason}" for number, reason in skipped)
        raise DamagedCheckpointError(f"no readable checkpoint in {self.path}: {reasons}")

    def close(self) -> list[int]:
        """`wait`, then end the threads of the store."""
        try:
            if self._agreement is not None:
                self._agreement.patience = _CLOSING  # the others may be gone or not be waiting
            return self._collect(block=True)
        finally:
            if self._manager is not None:
                self._manager.close()
                self._manager = None

    def _move_aside(self, step: int) -> None:
        if aside.move_aside(self.path, step, self._damaged):
            self._damaged.clear()
            if self._manager is not None:
                self._manager.reload()

    def _warn_if_slow(self) -> None:
        """Log if training has to wait for the save before."""
        seconds = time.monotonic() - self._began
        if self._pending is not None and seconds > SLOW and self._manager and self._manager.is_saving_in_progress():
            log.warning(
                "step %d is still being written after %.0f s, and training waits for it: save less often, or to a "
                "faster store", self._pending, seconds,
            )  # fmt: skip

    def _collect(self, *, block: bool) -> list[int]:
        self._settle(block=block)
        news, self._news = self._news, []
        return news

    def _settle(self, *, block: bool) -> None:
        """Return newly committed steps, after checking the outcome of the save on all hosts."""
        if self._pending is None or self._manager is None or (not block and self._manager.is_saving_in_progress()):
            return
        assert self._agreement is not None
        try:
            if not self._own:
                self._manager.wait_until_finished()
                if self._pending not in self.steps():
                    raise RuntimeError("it is missing after its commit")
                self._own = True
                self._agreement.good()
            if not self._agreement.settled(block=block):
                return
        except Exception as error:
            self._fail(error)
        self._saved.append(self._pending)
        self._news.append(self._pending)
        self._pending = None
        _remove(self.path / store.TRASH)

    def _fail(self, error: Exception) -> None:
        assert self._pending is not None
        step, self._pending = self._pending, None
        if self._manager is not None:
            with contextlib.suppress(Exception):  # it repeats the failure that is reported here
                self._manager.close()
            self._manager = None
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        if self._agreement is not None and not isinstance(error, PeerSaveError):
            self._agreement.failed(reason)
        raise SaveError(f"step {step} was not saved in {self.path}: {reason}", step) from error

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            meet = self._agreement.barrier if self._agreement is not None and self._asynchronous else None
            kept = {"keep_last": self._keep_last, "keep_every": self._keep_every}
            self._manager = store.manager(self.path, **kept, asynchronous=self._asynchronous, barrier=meet)
        return self._manager


def _remove(folder: epath.Path) -> None:
    if jax.process_index() == 0 and folder.exists():
        try:
            folder.rmtree()
        except OSError as error:  # failing to free space must not stop a run
            log.warning("could not empty %s: %s", folder, error)


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps[-10:])) or "none"
