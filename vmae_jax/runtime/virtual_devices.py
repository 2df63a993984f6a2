"""Several virtual devices of one CPU: threads enough, and patience where they wait for each other.

Devices that meet in a collective give each other 40 seconds, then XLA aborts the process. Real
devices that are that late are broken; virtual ones share a few cores, and on a busy machine one of
them may simply not have had its turn. Each that waits also holds one of XLA's threads, of which
there are only as many as devices. What hangs for good is the watchdog's to end.
"""

import os
import re
from collections.abc import MutableMapping

__all__ = ["patient"]

_COUNT = re.compile(r"--xla_force_host_platform_device_count=(\d+)")
_THREADS = 4  # for each device
FLAGS = {
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds": 120,
    "--xla_cpu_collective_call_terminate_timeout_seconds": 3600,
}


def patient(environment: MutableMapping[str, str] = os.environ) -> None:
    """Adds to XLA_FLAGS, where it asks for several virtual devices, and to NPROC; before JAX is first used.

    What is set already stays as it is. Other platforms do not read these flags.
    """
    flags = environment.get("XLA_FLAGS", "")
    count = _COUNT.search(flags)
    if count is None or int(count[1]) < 2:
        return
    environment.setdefault("NPROC", str(_THREADS * int(count[1])))
    missing = [f"{name}={seconds}" for name, seconds in FLAGS.items() if name not in flags]
    environment["XLA_FLAGS"] = " ".join([flags.strip(), *missing])
