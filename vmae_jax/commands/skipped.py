"""The videos that a training cannot read: listed, counted, and compared with the limit."""

import collections
import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vmae_jax.commands.experiment import Experiment
from vmae_jax.data.faults import Fault, TooManyBadVideos, too_many
from vmae_jax.eval import report
from vmae_jax.io.paths import Workdir
from vmae_jax.io.quarantine import Quarantine
from vmae_jax.io.writers import Writers

__all__ = ["Skipped", "listing_the_last", "of_all_hosts", "refuse_too_many", "skipped_of"]

log = logging.getLogger(__name__)

STOPPED = "too many videos cannot be read"
_LOGGED = 20  # videos that get a line of their own
_SHOWN = 3
_FROM_PATH = -1  # the index of files that are no part of the source


class Skipped:
    """Records unreadable videos in `quarantine.jsonl`, with an event and a log line for each new one.

    Every host calls it at the same steps and receives the videos of all hosts, so that all reach the same
    decision; process 0 writes. The share counts the videos of this attempt only, so files that were repaired
    before a restart do not count.

    Args:
      quarantine: the list; None on processes other than 0.
      writers: take the events.
      videos: of the source.
      batch: videos of a step.
      limit: the allowed share (`max_bad_fraction`).
    """

    def __init__(self, quarantine: Quarantine | None, writers: Writers, *, videos: int, batch: int, limit: float):
        self._quarantine, self._writers = quarantine, writers
        self._videos, self._batch, self._limit = videos, batch, limit
        self._bad: dict[int, Fault] = {}
        self._seen = 0
        self._logged = 0
        self._step = 0

    def pass_over(self, refused: Sequence[tuple[str, str, str]]) -> None:
        """List files beside the videos, (key, kind, reason), that are not read. They do not count in the share."""
        if self._quarantine is None or not refused:
            return
        new = self._quarantine.add([(key, reason, _FROM_PATH, kind) for key, kind, reason in refused])
        if new:
            names = ", ".join(row["path"] for row in new[:_SHOWN])
            more = ", …" if len(new) > _SHOWN else ""
            log.warning("%d files beside the videos are not read: %s%s (quarantine.jsonl)", len(new), names, more)
            self._writers.event(self._step, "files passed over", **_kinds(new))

    def __call__(self, step: int, batches: int, faults: Sequence[Fault]) -> None:
        """Record the unreadable videos of this host in `batches` batches up to `step`.

        Raises:
          TooManyBadVideos: if the share of videos that cannot be read, over all hosts, is above the limit.
        """
        self._step = step
        self._seen += batches * self._batch
        faults = of_all_hosts(faults)
        self._list(faults)
        self._bad |= {fault.index: fault for fault in faults if fault.drawn}
        refuse_too_many([*self._bad.values()], self._seen, self._videos, self._limit, listed=True)

    def left_out(self, step: int, data: str, faults: Sequence[Fault]) -> None:
        """List videos that an evaluation at `step` could not read; they do not count in the share.

        Args:
          data: the option of their loader, such as "config.eval.data".
          faults: of all hosts.
        """
        self._step = step
        self._list(faults, data)

    def last(self, faults: Sequence[Fault], message: str) -> None:
        """List the remaining videos, and write the event of a run that ends with `message`."""
        self._list(faults)
        self._writers.event(self._step, STOPPED, message=message)
        self._writers.flush()

    def flush(self) -> None:
        """Write the rows that the storage refused before."""
        if self._quarantine is not None:
            self._quarantine.flush()

    def summary(self) -> dict[str, int]:
        """Log and return the number of skipped videos by kind, including those of earlier attempts."""
        if self._quarantine is None:
            return {}
        self._quarantine.flush()
        counts = self._quarantine.counts()
        if counts:
            log.info("not read and listed in quarantine.jsonl: %s", _in_words(counts))
            self._writers.event(self._step, "skipped in all", **counts)
        return counts

    def _list(self, faults: Sequence[Fault], data: str = "") -> None:
        if self._quarantine is None:
            return
        new = self._quarantine.add(faults, data)
        instead = f"it is left out of the evaluation ({data})" if data else "its neighbour is used instead"
        for row in new[: max(0, _LOGGED - self._logged)]:
            log.warning("%s: %s, %s; %s", row["path"], row["kind"], row["reason"], instead)
        if self._logged <= _LOGGED < self._logged + len(new):
            log.warning("further unreadable videos are only listed in quarantine.jsonl")
        self._logged += len(new)
        if new:
            of = {"data": data} if data else {}
            self._writers.event(self._step, "videos skipped", count=len(new), **_kinds(new), **of)


def skipped_of(made: Experiment, workdir: Workdir, data: Any, writers: Writers) -> Skipped:
    """Return the `Skipped` of a run, after listing files of other formats in its folder."""
    skipped = Skipped(
        Quarantine(workdir.quarantine) if jax.process_index() == 0 else None,
        writers,
        videos=len(data),
        batch=made.loader.global_batch,
        limit=made.loader.max_bad_fraction,
    )
    skipped.pass_over(getattr(data.source, "refused", ()))
    return skipped


@contextlib.contextmanager
def listing_the_last(skipped: Skipped, faults: Callable[[], Sequence[Fault]], workdir: Workdir) -> Iterator[None]:
    """Before a run ends because of its data, write the rest of the list, an event and the report.

    Args:
      skipped: of the run.
      faults: returns the videos since the last call of `skipped`.
      workdir: of the run.
    """
    try:
        yield
    except TooManyBadVideos as error:
        skipped.last(faults(), str(error))
        if jax.process_index() == 0:
            try:
                report.write(workdir.path)
            except OSError as problem:
                log.warning("the report could not be written: %s", problem)
        raise


def refuse_too_many(
    bad: Sequence[Fault],
    seen: int,
    videos: int,
    limit: float,
    option: str = "config.data.max_bad_fraction",
    *,
    listed: bool = False,
) -> None:
    """Compare the share of unreadable videos with the limit (`faults.too_many`).

    Args:
      bad: the unreadable videos.
      seen: videos that were due.
      videos: of the source.
      limit: the allowed share.
      option: the option that sets the limit.
      listed: whether the videos are in `quarantine.jsonl`.

    Raises:
      TooManyBadVideos: if the share is above the limit.
    """
    if not too_many(len(bad), seen, videos, limit):
        return
    seen = min(max(seen, len(bad)), videos)
    which = f"{videos:,} videos" if seen == videos else f"the first {seen:,} of {videos:,} videos"
    kinds = _in_words(_kinds([fault._asdict() for fault in bad]))
    where = "see quarantine.jsonl" if listed else f"such as {bad[0].key}"
    raise TooManyBadVideos(
        f"{len(bad):,} of {which} could not be read ({len(bad) / max(seen, 1):.0%}, limit {limit:.0%}: {kinds}); "
        f"{where}. Raise --{option} to continue."
    )


def of_all_hosts(faults: Sequence[Fault]) -> list[Fault]:
    """Return the unreadable videos of all hosts by number, each once (as drawn, if any host drew it)."""
    texts = [json.dumps(faults).encode()]
    if jax.process_count() > 1:
        sizes = multihost_utils.process_allgather(np.int32(len(texts[0])))
        padded = np.zeros(int(sizes.max()), np.uint8)
        padded[: len(texts[0])] = np.frombuffer(texts[0], np.uint8)
        rows = multihost_utils.process_allgather(padded)
        texts = [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]
    found = [Fault(*fault) for text in texts for fault in json.loads(text)]
    return [*{fault.index: fault for fault in sorted(found, key=lambda fault: (fault.index, fault.drawn))}.values()]


def _kinds(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return dict(sorted(collections.Counter(row["kind"] for row in rows).items()))


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
