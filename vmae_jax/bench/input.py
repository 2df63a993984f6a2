"""The rate of each stage of the input, and the stage that limits it.

This module imports nothing that reads videos: a command passes the stages as functions.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["Rate", "report", "table", "timed"]

BUSY = 0.85  # share of the cores above which they limit the input
PARTS = "together"  # the whole input, from the files to the devices


@dataclasses.dataclass(frozen=True)
class Rate:
    """The rate of a stage.

    Attributes:
      clips: that passed through it.
      seconds: from the first to the last.
      cpu_seconds: of all its threads and processes.
    """

    clips: int
    seconds: float
    cpu_seconds: float

    @property
    def clips_per_second(self) -> float:
        return self.clips / self.seconds

    @property
    def cpu_ms_per_clip(self) -> float:
        return 1000 * self.cpu_seconds / self.clips


def timed(step: Callable[[], int], *, cpu: Callable[[], float], seconds: float) -> Rate:
    """Call `step` for `seconds`; the first call is not counted.

    Args:
      step: processes some clips and returns their number.
      cpu: returns the processor seconds used so far.
      seconds: duration of the measurement.
    """
    step()
    began, used, clips = time.perf_counter(), cpu(), 0
    while True:
        clips += step()
        passed = time.perf_counter() - began
        if passed >= seconds:
            return Rate(clips, passed, cpu() - used)


def report(
    stages: Mapping[str, Rate],
    whole: Rate,
    *,
    cores: int,
    clips: int,
    step_seconds: float | None,
    hosts: int,
    row_bytes: Mapping[str, int],
    served: bool = False,
) -> dict[str, Any]:
    """Interpret the measurements.

    Args:
      stages: rates of the single stages, in order.
      whole: all of them together, as in training.
      cores: of this host.
      clips: per step, over all hosts.
      step_seconds: duration of a step on the devices, or None.
      hosts: of the pod to project to, each with the same cores.
      row_bytes: of each array of a batch, for one clip.
      served: whether other machines decode, and `stages` are those on this host.

    Returns:
      {"stages", "together", "bytes", "bound_by", "why", and with step_seconds "feeding"}.
    """
    bound, why = _verdict(stages, whole, cores, served)
    found: dict[str, Any] = {
        "stages": {name: _numbers(rate) for name, rate in stages.items()},
        PARTS: _numbers(whole) | {"cores_busy": whole.cpu_seconds / whole.seconds},
        "bytes": dict(row_bytes),
        "cores": cores,
        "bound_by": bound,
        "why": why,
    }
    if step_seconds is not None:
        found["feeding"] = _feeding(whole, cores=cores, clips=clips, step_seconds=step_seconds, hosts=hosts)
    return found


def _verdict(stages: Mapping[str, Rate], whole: Rate, cores: int, served: bool) -> tuple[str, str]:
    busy = whole.cpu_seconds / whole.seconds / cores
    slowest = min(stages, key=lambda name: stages[name].clips_per_second)
    dearest = max(stages, key=lambda name: stages[name].cpu_ms_per_clip)
    if busy >= BUSY:
        share = stages[dearest].cpu_ms_per_clip / sum(rate.cpu_ms_per_clip for rate in stages.values())
        return dearest, f"{busy:.0%} of {cores} cores are busy, {share:.0%} of that with {dearest}"
    if served:
        return (
            "the data service",
            f"the cores here are {busy:.0%} busy; its workers or the network deliver no more",
        )
    alone = stages[slowest].clips_per_second
    return slowest, f"the cores are {busy:.0%} busy, and {slowest} alone reaches {alone:.1f} clips/s"


def _feeding(whole: Rate, *, cores: int, clips: int, step_seconds: float, hosts: int) -> dict[str, Any]:
    """Return whether, and with how many cores, the input keeps up with steps of this duration."""
    needed = clips / step_seconds
    here = whole.clips_per_second
    per_core = here / min(cores, max(whole.cpu_seconds / whole.seconds, 1e-9))
    return {
        "step_seconds": step_seconds,
        "clips_per_second_needed": needed,
        "hosts": hosts,
        "clips_per_second_of_hosts": here * hosts,
        "wait_share": max(0.0, 1 - here * hosts / needed),
        "cores_needed": math.ceil(needed / per_core),
        "cores_needed_per_host": math.ceil(needed / per_core / hosts),
    }


def table(found: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    rows: list[Sequence[str]] = [("stage", "clips/s", "CPU ms per clip")]
    for name, numbers in [*found["stages"].items(), (PARTS, found[PARTS])]:
        rows.append((name, f"{numbers['clips_per_second']:.1f}", f"{numbers['cpu_ms_per_clip']:.2f}"))
    wide = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{a:<{wide[0]}}  {b:>{wide[1]}}  {c:>{wide[2]}}" for a, b, c in rows]
    sizes = [f"{name} {size / 1024:.1f}" for name, size in found["bytes"].items()]
    lines.append(f"KiB per clip: {', '.join(sizes)}")
    lines.append(f"bound by {found['bound_by']}: {found['why']}")
    if feeding := found.get("feeding"):
        lines.append(
            f"steps of {feeding['step_seconds']:g} s need {feeding['clips_per_second_needed']:.1f} clips/s; "
            f"{feeding['hosts']} such hosts deliver {feeding['clips_per_second_of_hosts']:.1f}: the devices wait "
            f"{feeding['wait_share']:.0%} of the time; {feeding['cores_needed_per_host']} cores per host would suffice"
        )
    return "\n".join(lines)


def _numbers(rate: Rate) -> dict[str, float]:
    return {"clips_per_second": rate.clips_per_second, "cpu_ms_per_clip": rate.cpu_ms_per_clip}
