"""The end of a command whose libraries leave threads behind."""

import os
import sys
import threading
import time

__all__ = ["leave"]

PATIENCE = 5.0  # seconds for threads that are about to end


def leave(status: int, *, failed: bool) -> None:
    """End the process at once if something would keep it; otherwise return.

    Threads that Python would wait for: Orbax leaves some after a failed save. They wait ten minutes for something that
    never happens, which would delay a restart of the command.

    The other processes of a job: at its exit JAX waits for all of them, for a minute where one of them is lost.

    Args:
      failed: the command ended with an error, and not where all processes agreed to end.
    """
    end = time.monotonic() + PATIENCE
    left = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    for thread in left:
        # Orbax's own `join` raises where the time is up, and what its thread raised.
        threading.Thread.join(thread, max(0.0, end - time.monotonic()))
    broken = failed and _leaves_a_job(end)
    if broken or any(thread.is_alive() for thread in left):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _leaves_a_job(end: float) -> bool:
    """Whether this is one of several processes, in which case the coordinator waits until `end`.

    Without the coordinator the others abort, maybe before they have reported what they saw.
    """
    from jax._src.distributed import global_state  # `jax.process_index` would first wait for the devices of all

    if global_state.client is None:
        return False
    if global_state.process_id == 0 and global_state.num_processes > 2:
        time.sleep(max(0.0, end - time.monotonic()))
    return global_state.num_processes > 1
