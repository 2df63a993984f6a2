"""Being asked to stop: SIGTERM, Ctrl-C or a scheduler's notice, agreed on by all hosts.

    with Preemption() as preemption:
        for step in ...:
            if preemption.requested(step):
                save and leave with status 75

On one process a handler sets a flag. With `jax.distributed`, JAX's preemption service carries the
notice that any one host gets to all of them and picks a step that none has passed; that works
only if every host asks at every step (asked every tenth step, the notice is missed).
"""

import logging
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

__all__ = ["Preemption"]

log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preemption:
    """Turns the first SIGTERM or SIGINT into `requested`; a second one ends the process at once.

    The status of that end is 128 plus the signal's number, 143 or 130. Use it as a context: the
    handlers that were there before come back at its end. Outside the main thread, where Python
    allows no handlers, only the distributed service is listened to.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._before: dict[int, Any] = {}
        self._agreed = False

    @property
    def reason(self) -> str:
        """What asked for the end, for the log: "SIGTERM", "SIGINT", or the notice of a peer."""
        if self._signal is not None:
            return signal.Signals(self._signal).name
        return "a preemption notice" if self._agreed else ""

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            # With jax.distributed SIGTERM belongs to its service, which must be the one to see it.
            for number in (signal.SIGINT,) if _distributed() else _SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not installed from Python and cannot be put back from it
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def requested(self, step: int) -> bool:
        """Whether to save now and leave; call it at every step, on every host.

        Args:
          step: the number of the step, the same on all hosts; hosts that were ahead when the
            notice came go on until all of them meet at one step.
        """
        if not _distributed():
            return self._signal is not None
        if not self._agreed and multihost_utils.reached_preemption_sync_point(step):
            self._agreed = True
            if threading.current_thread() is threading.main_thread():
                # The service has done its work: from here on a second SIGTERM ends at once.
                self._before.setdefault(signal.SIGTERM, signal.signal(signal.SIGTERM, self._handle))
                self._signal = self._signal or signal.SIGTERM
        return self._agreed

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._signal is not None:
            os._exit(128 + number)
        self._signal = number
        # A handler may interrupt a write to the same stream: os.write is safe, logging is not.
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: saving after this step; once more to end at once\n".encode())
        if _distributed():
            os.kill(os.getpid(), signal.SIGTERM)  # so that the service tells all hosts


def _distributed() -> bool:
    return jax.distributed.is_initialized()
