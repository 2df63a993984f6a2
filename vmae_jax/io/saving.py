"""A saver under which training goes on when a save fails."""

import logging
from collections.abc import Mapping
from typing import Any

from vmae_jax.io.checkpoint import Checkpoints, SaveError
from vmae_jax.io.writers import Writers

__all__ = ["Tolerant"]

log = logging.getLogger(__name__)


class Tolerant:
    """`Checkpoints` whose failures are told and recorded, and raised only when the run ends with one.

    Args:
      saver: the checkpoints.
      writers: get an event "save failed".
    """

    def __init__(self, saver: Checkpoints, writers: Writers):
        self._saver, self._writers = saver, writers
        self._failed: SaveError | None = None
        self._step = 0

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool:
        """Starts to save; False also where that failed."""
        self._step = step
        try:
            saved = self._saver.save(step, state, meta)
        except SaveError as error:
            self._tell(error)
            if error.step == step:
                return False
            saved = self._once_more(step, state, meta)  # it was the save before that failed
        return saved

    def poll(self) -> list[int]:
        """The steps found committed since the last call."""
        try:
            return self._good(self._saver.poll())
        except SaveError as error:
            self._tell(error)
            return []

    def wait(self) -> list[int]:
        """`poll`, once nothing is being written any more.

        Raises:
          SaveError: the newest save failed: the run must not end with it.
        """
        told = self._good(self._saver.wait())
        if self._failed is not None:
            raise self._failed
        return told

    def _once_more(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool:
        try:
            return self._saver.save(step, state, meta)
        except SaveError as error:
            self._tell(error)
            return False

    def _good(self, steps: list[int]) -> list[int]:
        if self._failed is not None and max(steps, default=-1) >= self._failed.step:
            self._failed = None
        return steps

    def _tell(self, error: SaveError) -> None:
        self._failed = error
        log.warning("%s; training goes on (checkpoint.on_error)", error)
        self._writers.event(self._step, "save failed", checkpoint=error.step, reason=str(error))
