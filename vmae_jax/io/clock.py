"""A steady clock that cannot be set, in addition to the time of day, which people and NTP adjust."""

import time
from typing import Any

__all__ = ["boot", "now", "steady"]


def steady() -> float:
    """Return the seconds since the machine was started, including sleep if the system counts it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def boot() -> str:
    """Return an id of the running kernel, which changes with every start of the machine, or ""."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def now(ago: float = 0.0) -> dict[str, Any]:
    """Return the moment `ago` seconds before now, by the time of day and by the steady clock."""
    return {"time": time.time() - ago, "boot": boot(), "uptime": steady() - ago}
