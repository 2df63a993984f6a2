"""The windows of batches that a run left behind by rolling back, as `skipped.jsonl` has them.

The data of a run are the batches 0, 1, 2, … without these windows, so the batch of a step follows from its number
and this file (`data.order.past`), whichever checkpoint the run is resumed from.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from vmae_jax.io.paths import Log, Workdir
from vmae_jax.spec import ConfigError

__all__ = ["Skip", "in_a_row", "read_skips", "record"]


class Skip(NamedTuple):
    """A window of batches that is never trained on again.

    Attributes:
      first: its first batch.
      last: the batch after its last.
      back_to: the step that the run went back to.
      reason: why, for people.
    """

    first: int
    last: int
    back_to: int
    reason: str = ""


def in_a_row(skips: Sequence[Skip], back_to: int) -> int:
    """Count how often the run went back to `back_to` at the end of `skips`, with no newer checkpoint between."""
    count = 0
    for skip in reversed(skips):
        if skip.back_to != back_to:
            break
        count += 1
    return count


def read_skips(workdir: Workdir) -> list[Skip]:
    """Return the windows in the order in which they were left behind.

    Raises:
      ConfigError: if a line of the file is none.
    """
    try:
        return [Skip(**json.loads(line)) for line in Log(workdir.skipped).lines()]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{workdir.skipped} is not what a run wrote: {error}") from error


def record(workdir: Workdir, skip: Skip) -> None:
    """Append a window; it is on disk afterwards."""
    log = Log(workdir.skipped)
    log.append([json.dumps(skip._asdict())])
    log.flush()
