"""Being asked to stop: SIGTERM, Ctrl-C or a scheduler's notice, agreed on by all hosts.

    with Preemption() as preemption:
        for step in ...:
            if preemption.requested(step):
                save and leave with status 75

The first signal is remembered. With `jax.distributed`, JAX's preemption service carries the notice
that any one host gets to all of them and picks a step that none has passed; that works only if
every host asks at every step (asked every tenth step, the notice is missed). The second signal ends
the process at once, also while it compiles or waits for a peer: a separate thread receives the signal.
"""

import contextlib
import ctypes
import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

__all__ = ["Preemption"]

log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_C_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)


class Preemption:
    """Turns the first SIGTERM or SIGINT into `requested`; a second one ends the process at once.

    The status of that end is 128 plus the signal's number, 143 or 130. Use it as a context: the
    handlers that were there before come back at its end. Outside the main thread, where Python
    allows no handlers, only the distributed service is listened to.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._agreed = False
        # Counts of the two receivers of a signal: the main thread (once it is back in Python) and `_watch`.
        self._received = [0, 0]
        self._lock = threading.RLock()  # a handler may interrupt itself
        self._undo = contextlib.ExitStack()
        self._service: Callable[[int], None] | None = None

    @property
    def caught(self) -> str:
        """The signal that this process itself got, "SIGTERM" or "SIGINT", or ""; for processes that share no steps."""
        return "" if self._signal is None else signal.Signals(self._signal).name

    @property
    def reason(self) -> str:
        """What asked for the end, for the log: "SIGTERM", "SIGINT", or the notice of a peer."""
        if self._signal is not None:
            return signal.Signals(self._signal).name
        return "a preemption notice" if self._agreed else ""

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            if _distributed():
                # SIGTERM belongs to JAX's service, which is handed what comes from here on.
                address = _set_c_handler(signal.SIGTERM, None)
                self._undo.callback(_set_c_handler, signal.SIGTERM, address)
                self._service = _C_HANDLER(address) if address else None
            for number in _SIGNALS:
                # None: a handler that was not installed from Python and cannot be put back from it
                before = signal.signal(number, self._handle)
                self._undo.callback(signal.signal, number, signal.SIG_DFL if before is None else before)
            self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def requested(self, step: int) -> bool:
        """Whether to save now and leave; call it at every step, on every host.

        Args:
          step: the number of the step, the same on all hosts; hosts that were ahead when the
            notice came go on until all of them meet at one step.
        """
        if not _distributed():
            return self._signal is not None
        self._agreed = self._agreed or bool(multihost_utils.reached_preemption_sync_point(step))
        return self._agreed

    def _listen(self) -> None:
        """Start the thread that receives signals while the main thread is busy outside of Python."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reading,), name="preemption", daemon=True).start()
        self._undo.callback(os.close, writing)  # which ends the thread
        self._undo.callback(signal.set_wakeup_fd, before)

    def _watch(self, reading: int) -> None:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while numbers := pipe.read(64):
                for number in numbers:
                    if number in _SIGNALS:
                        self._count(1, number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._count(0, number)

    def _count(self, who: int, number: int) -> None:
        with self._lock:
            self._received[who] += 1
            if self._received[who] > 1:
                os._exit(128 + number)
            if self._signal is not None:
                return
            self._signal = number
            # It may have interrupted a write to the same stream: os.write is safe, logging is not.
            name = signal.Signals(number).name
            with contextlib.suppress(OSError):  # a full disk under the log must not stop the save
                os.write(2, f"\n{name}: saving after this step; once more to end at once\n".encode())
            if self._service is not None:
                self._service(signal.SIGTERM)


def _set_c_handler(number: int, address: int | None) -> int | None:
    """Installs what handles a signal, as C knows it (None: the default), and returns what did so far."""
    c = ctypes.CDLL(None)
    c.signal.restype, c.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    return c.signal(number, address)


def _distributed() -> bool:
    return jax.distributed.is_initialized()
