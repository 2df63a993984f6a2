"""What feeding the devices costs: the rate of each stage of the input, and who waits for whom.

It imports nothing that reads videos: a command hands it the stages as functions.
"""

import dataclasses
import time
from collections.abc import Callable

__all__ = ["Rate", "timed"]


@dataclasses.dataclass(frozen=True)
class Rate:
    """How fast a stage is.

    Attributes:
      clips: that went through it.
      seconds: from the first to the last.
      cpu_seconds: of all threads and processes that work for it.
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
    """Calls `step`, which says how many clips it dealt with, for this long; the first call is not counted.

    Args:
      cpu: processor seconds used so far.
    """
    step()
    began, used, clips = time.perf_counter(), cpu(), 0
    while True:
        clips += step()
        passed = time.perf_counter() - began
        if passed >= seconds:
            return Rate(clips, passed, cpu() - used)
