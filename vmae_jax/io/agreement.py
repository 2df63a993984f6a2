"""Agreement of all hosts on the outcome of a save, so that no host waits for one that failed.

The background threads of Orbax meet at barriers. A host whose write failed never reaches them, and the others would
wait there for many minutes. `Agreement.barrier` replaces these barriers: while it waits, it checks for a note that a
host failed. When its own thread is done, each host leaves a note of its outcome, and the save counts only if all are
good. Nothing here computes on devices, so it can run during a training step.
"""

import collections
import contextlib
import itertools
import threading
import time
from typing import Any

import jax

__all__ = ["Agreement", "PeerSaveError"]

_instances = itertools.count()  # the same on every host: all create the same objects in the same order
_LOOK = 1.0  # seconds between two checks of the notes
_PATIENCE = 3600.0  # seconds to wait for notes; JAX's heartbeat ends the job much earlier if a host is gone
_WROTE, _SET = "async_commit_complete", "set_value_start"  # in the names of the store's barriers


class PeerSaveError(RuntimeError):
    """Another host could not do its part of a save."""


class Agreement:
    """The saves of one `Checkpoints` on all hosts; with one process, a no-op.

    Attributes:
      patience: seconds that `settled` waits for the notes of others.
    """

    def __init__(self) -> None:
        from jax._src import distributed  # JAX has no public way to its own store

        self._client: Any = distributed.global_state.client if jax.process_count() > 1 else None
        self._prefix = f"vmae/saves/{next(_instances)}" if self._client is not None else ""
        self.patience = _PATIENCE
        self._attempt = 0
        self._met: collections.Counter[str] = collections.Counter()  # barriers of this attempt
        self._sets = 0  # how often the store has set or cleared its mark of a save in progress
        self._wrote = self._left = False  # its thread is done; it left because of another host

    def begin(self) -> None:
        """Begin a save, on every host."""
        self._attempt += 1
        self._sets, self._wrote, self._left = 0, False, False
        self._met.clear()

    def barrier(self, *, key: str, timeout_ms: int) -> None:
        """Wait for all hosts, in place of a barrier of the store.

        Raises:
          PeerSaveError: if one of them failed.
        """
        if self._client is None:
            return
        if _SET in key:
            self._sets += 1
            if self._sets == 1:
                self._wrote = False  # earlier barriers were those of the frozen arrays
            elif not self._wrote and not self._left:  # the thread that writes ended before its barriers
                self.failed("its write failed")
        self._met[key] += 1
        name = f"{self._prefix}/{self._attempt}/{key}/{self._met[key]}"
        # A host that failed also reaches the end of a save; wait for it there.
        self._meet(name, timeout_ms, look=self._sets < 2)
        if _WROTE in key:
            self._wrote = True

    def _meet(self, name: str, timeout_ms: int, *, look: bool) -> None:
        met = threading.Event()
        problems: list[Exception] = []

        def meet() -> None:
            try:
                self._client.wait_at_barrier(name, timeout_ms)
            except Exception as error:  # the thread that waits for this one raises it below
                problems.append(error)
            met.set()

        threading.Thread(target=meet, name="save barrier", daemon=True).start()
        while not met.wait(_LOOK):
            if look:
                self._raise_failures()
        if problems:
            raise problems[0]

    def failed(self, reason: str) -> None:
        """Leave a note that this host failed, so that the others stop waiting."""
        self._note("failed", reason)

    def good(self) -> None:
        """Leave a note that this host did its part."""
        self._note("good", "")

    def ready(self) -> None:
        """Wait until every host can begin to write, because the store's first barriers have no time limit.

        Raises:
          PeerSaveError: if one of them cannot.
          TimeoutError: if one leaves no note for `patience` seconds.
        """
        self._note("ready", "")
        self._all_left("ready", block=True)

    def settled(self, *, block: bool) -> bool:
        """Return whether every host did its part; without `block`, False also while that is unknown.

        Raises:
          PeerSaveError: if one of them failed.
          TimeoutError: if one leaves no note for `patience` seconds.
        """
        return self._all_left("good", block=block)

    def _all_left(self, kind: str, *, block: bool) -> bool:
        if self._client is None:
            return True
        end = time.monotonic() + self.patience
        while True:
            self._raise_failures()
            if len(self._notes(kind)) == jax.process_count():
                return True
            if not block:
                return False
            if time.monotonic() > end:
                raise TimeoutError(f"not every host reported the outcome of its part within {self.patience:g} s")
            time.sleep(0.05)

    def _raise_failures(self) -> None:
        others = {rank: why for rank, why in self._notes("failed").items() if rank != jax.process_index()}
        if others:
            self._left = True
            rank, why = min(others.items())
            raise PeerSaveError(f"host {rank} could not save its part ({why})")

    def _note(self, kind: str, text: str) -> None:
        if self._client is not None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service is gone, and so is the job
                name = f"{self._prefix}/{self._attempt}/{kind}/{jax.process_index()}"
                self._client.key_value_set(name, text or "yes", allow_overwrite=True)

    def _notes(self, kind: str) -> dict[int, str]:
        found = self._client.key_value_dir_get(f"{self._prefix}/{self._attempt}/{kind}/")
        return {int(key.rpartition("/")[2]): text for key, text in found}
