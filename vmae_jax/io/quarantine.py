"""`quarantine.jsonl`: the videos of a run that could not be read, each listed once, also across restarts."""

import json
import logging
from collections.abc import Iterable

from etils import epath

from vmae_jax.io.paths import Log

__all__ = ["Quarantine"]

log = logging.getLogger(__name__)


class Quarantine:
    """The list on disk.

    Args:
      path: the file; made with the first entry.
    """

    def __init__(self, path: epath.PathLike) -> None:
        self._log = Log(path)
        self._waiting: set[str] = set()  # names of entries that the storage did not take yet
        self._failed = False

    def add(self, faults: Iterable[tuple[str, str, int, str]]) -> None:
        """Lists videos (key, reason, number in the source, kind) that are not listed yet.

        What is listed is read from the disk each time: faults are rare, and another host, or this
        run before it was restarted, may have met the same video. Storage that fails stops no run: what it did
        not take is written by a later call, or by `flush`.
        """
        try:
            listed = self._listed()
        except OSError as error:
            self._warn(error)
            listed = set()
        for key, reason, index, kind in faults:
            name = json.dumps([key, index])
            if name in listed or name in self._waiting:
                continue
            self._waiting.add(name)
            entry = {"path": key, "kind": kind, "reason": reason, "index": index}
            self._log.append([json.dumps(entry, ensure_ascii=False)])
            log.warning("%s could not be read and was replaced by a neighbour: %s", key, reason)
        self.flush()

    def flush(self) -> None:
        """Writes the entries that the storage did not take before."""
        try:
            self._log.flush()
        except OSError as error:
            self._warn(error)
        else:
            self._waiting.clear()
            self._failed = False

    def _listed(self) -> set[str]:
        return {json.dumps([entry["path"], entry["index"]]) for entry in map(json.loads, self._log.lines())}

    def _warn(self, error: OSError) -> None:
        if not self._failed:
            log.warning("%s cannot be written now, training goes on: %s", self._log.path, error)
        self._failed = True
