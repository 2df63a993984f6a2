"""A clock that nobody sets, beside the time of day, which people and NTP correct."""

import time
from typing import Any

__all__ = ["boot", "now", "steady"]


def steady() -> float:
    """Return the seconds since the machine was started, sleep included where the system counts it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def boot() -> str:
    """Return the name of the running kernel, another one after every start of the machine; "" where it has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def now(ago: float = 0.0) -> dict[str, Any]:
    """Return the moment `ago` seconds before this one: by the time of day, and by which steady clock."""
    return {"time": time.time() - ago, "boot": boot(), "uptime": steady() - ago}
