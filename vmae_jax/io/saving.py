"""A saver that lets training continue after a failed save."""

import logging
from collections.abc import Mapping
from typing import Any

from vmae_jax.io.checkpoint import Checkpoints, SaveError
from vmae_jax.io.writers import Writers

__all__ = ["Tolerant"]

log = logging.getLogger(__name__)


class Tolerant:
    """`Checkpoints` whose failures are logged and recorded, and raised only when the run ends with one.

    Args:
      saver: the checkpoints.
      writers: receive an event "save failed".
    """

    def __init__(self, saver: Checkpoints, writers: Writers):
        self._saver, self._writers = saver, writers
        self._failed: SaveError | None = None
        self._step = 0

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool:
        """Start to save; return False also if that failed."""
        self._step = step
        try:
            saved = self._saver.save(step, state, meta)
        except SaveError as error:
            self._record(error)
            if error.step == step:
                return False
            saved = self._once_more(step, state, meta)  # the save before had failed
        return saved

    def poll(self) -> list[int]:
        """Return the steps committed since the last call."""
        try:
            return self._good(self._saver.poll())
        except SaveError as error:
            self._record(error)
            return []

    def wait(self) -> list[int]:
        """Wait until nothing is being written, then `poll`.

        Raises:
          SaveError: if the newest save failed, because a run must not end with that.
        """
        saved = self._good(self._saver.wait())
        if self._failed is not None:
            raise self._failed
        return saved

    def _once_more(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool:
        try:
            return self._saver.save(step, state, meta)
        except SaveError as error:
            self._record(error)
            return False

    def _good(self, steps: list[int]) -> list[int]:
        if self._failed is not None and max(steps, default=-1) >= self._failed.step:
            self._failed = None
        return steps

    def _record(self, error: SaveError) -> None:
        self._failed = error
        log.warning("%s; training continues (checkpoint.on_error)", error)
        self._writers.event(self._step, "save failed", checkpoint=error.step, reason=str(error))
