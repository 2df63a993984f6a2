"""Files that a list names and a disk does not hold: counted before the first step, at a bounded cost."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from vmae_jax.data.faults import too_many
from vmae_jax.names import as_text
from vmae_jax.spec import ConfigError

__all__ = ["Missing", "check_missing", "look_for"]

log = logging.getLogger(__name__)

LOOKED = 10_000  # files at most: a share of 5% is then found to within 0.7 points (three standard deviations)
_THREADS = 32  # a network disk answers many questions at once
_SHOWN = 3


class Missing(NamedTuple):
    """What of a list is not there.

    Attributes:
      where: the list, for messages.
      count: files that are not there.
      looked: files that were looked for.
      listed: files that the list names.
      names: the first few that are not there.
      hint: what may be the reason.
    """

    where: str
    count: int
    looked: int
    listed: int
    names: tuple[str, ...]
    hint: str = ""


def look_for(paths: Sequence[str], where: str, hint: str = "") -> Missing:
    """Count the local files of a list that are not there.

    Up to 10,000 files all are looked for; of more, 10,000 that are evenly spaced in the list, so that the first step
    of a list of millions on a network disk does not wait for an hour. What is missing besides is found when it is read.
    """
    count = len(paths)
    chosen = [paths[i * count // LOOKED] for i in range(LOOKED)] if count > LOOKED else list(paths)
    with ThreadPoolExecutor(_THREADS) as pool:
        there = list(pool.map(os.path.exists, chosen, chunksize=64))
    absent = [path for path, found in zip(chosen, there, strict=True) if not found]
    return Missing(where, len(absent), len(chosen), count, tuple(map(as_text, absent[:_SHOWN])), hint)


def check_missing(missing: Missing | None, limit: float) -> None:
    """Log how many files of a list are not there, in one line.

    Raises:
      ConfigError: if all are missing, or more than the share `limit` (`faults.too_many`).
    """
    if missing is None or not missing.count:
        return
    few = missing.looked < missing.listed
    which = f"{missing.looked:,} looked for of {missing.listed:,}" if few else f"{missing.listed:,}"
    message = (
        f"data source: {missing.count:,} of the {which} videos of {missing.where} are not there "
        f"({missing.count / missing.looked:.0%}), such as {', '.join(missing.names)}"
    )
    if missing.count == missing.looked:
        raise ConfigError(f"{message}{missing.hint}")
    if too_many(missing.count, missing.looked, missing.listed, limit):
        raise ConfigError(
            f"{message}; the limit is {limit:.0%}{missing.hint}. To train without them raise max_bad_fraction of this "
            f"loader, such as --config.data.max_bad_fraction={min(1.0, missing.count / missing.looked + 0.05):.2f}"
        )
    log.warning("%s; they are skipped", message)
