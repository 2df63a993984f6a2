"""Several virtual devices of one CPU: patience where they wait for each other.

Devices that meet in a collective give each other 40 seconds, then XLA aborts the process. Real
devices that are that late are broken; virtual ones share a few cores, and on a busy machine one of
them may simply not have had its turn. What hangs for good is the watchdog's to end.
"""

import os
from collections.abc import MutableMapping

__all__ = ["patient"]

_SIGN = "xla_force_host_platform_device_count"
FLAGS = {
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds": 120,
    "--xla_cpu_collective_call_terminate_timeout_seconds": 3600,
}


def patient(environment: MutableMapping[str, str] = os.environ) -> None:
    """Adds the flags to XLA_FLAGS where it asks for virtual devices; before JAX is first used.

    Flags that are there already stay as they are. Other platforms do not see them.
    """
    flags = environment.get("XLA_FLAGS", "")
    if _SIGN not in flags:
        return
    missing = [f"{name}={seconds}" for name, seconds in FLAGS.items() if name not in flags]
    environment["XLA_FLAGS"] = " ".join([flags.strip(), *missing])
