"""Work that processes share without computing together: each takes its own part, and they end together."""

import math
from typing import NamedTuple

import jax

from vmae_jax.runtime import distributed
from vmae_jax.runtime.preemption import Preemption
from vmae_jax.spec import ConfigError

__all__ = ["Share", "asked_to_stop", "meet", "share"]

_STOP = "stop"
_GRACE = 30.0  # seconds that a stopping process waits for the others


class Share(NamedTuple):
    """One of `count` parts of the work."""

    index: int
    count: int

    def has(self, unit: int) -> bool:
        """Whether the work of this number belongs to the part."""
        return unit % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def share(text: str | None) -> Share:
    """This process's part: that of the batch job (`--shard=i/n`), split over the processes of its own job.

    Raises:
      ConfigError: if the text is not i/n with 0 <= i < n.
    """
    index, _, count = (text or "0/1").partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(f"--shard={text}: expected i/n with i from 0 to n-1, such as 0/8 for the first of eight")
    processes = jax.process_count()
    return Share(int(index) * processes + jax.process_index(), int(count) * processes)


def asked_to_stop(preemption: Preemption) -> str:
    """Why this process is to stop ("" if it is not): a signal of its own, or of any process of the job."""
    notes = distributed.notes(_STOP)
    if preemption.caught and jax.process_index() not in notes:
        distributed.leave_note(_STOP, {"reason": preemption.caught})
    return preemption.caught or next((note["reason"] for note in notes.values()), "")


def meet(what: str, *, stopping: bool = False) -> None:
    """Waits until every process of the job is here; only for a short time where the job is stopping.

    Raises:
      PeerError: if another process failed.
    """
    try:
        timeout = _GRACE if stopping else math.inf
        distributed.together(what, lambda: None, facts=lambda _: {}, timeout=timeout)
    except distributed.PeerError:
        if not stopping:
            raise
