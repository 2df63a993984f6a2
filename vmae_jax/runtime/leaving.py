"""The end of a command whose libraries leave threads behind."""

import os
import sys
import threading
import time

__all__ = ["leave"]

PATIENCE = 5.0  # seconds for threads that are about to end


def leave(status: int) -> None:
    """End the process if threads are left that Python would wait for; otherwise return.

    Orbax leaves some after a failed save. They wait ten minutes for something that never happens, which would delay
    a restart of the command.
    """
    end = time.monotonic() + PATIENCE
    left = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    for thread in left:
        # Orbax's own `join` raises where the time is up, and what its thread raised.
        threading.Thread.join(thread, max(0.0, end - time.monotonic()))
    if any(thread.is_alive() for thread in left):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
