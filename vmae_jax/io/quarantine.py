"""`quarantine.jsonl`: the videos of a run that could not be read, each listed once, also across restarts."""

import collections
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath

from vmae_jax.io.paths import Log
from vmae_jax.names import json_text

__all__ = ["Quarantine"]

log = logging.getLogger(__name__)


class Quarantine:
    """The list on disk. If it cannot be written, its rows are kept in memory, and the run continues.

    Args:
      path: the file; created with the first entry.
    """

    def __init__(self, path: epath.PathLike) -> None:
        self._log = Log(path)
        self._failed = False
        self._rows = [row for line in self._log.lines() if (row := _row(line)) is not None]
        self._listed = {_name(row["path"], row["index"], row.get("data", "")) for row in self._rows}

    def add(self, faults: Iterable[Sequence[Any]], data: str = "") -> list[dict[str, Any]]:
        """List videos (key, reason, number in the source, kind, …) that are not listed yet.

        Args:
          data: the option of the loader that they belong to, where it is not that of the training data.

        Returns:
          the new rows.
        """
        new = []
        of = {"data": data} if data else {}
        for key, reason, index, kind, *_ in faults:
            if _name(key, index, data) not in self._listed:
                self._listed.add(_name(key, index, data))
                new.append({"path": key, "kind": kind, "reason": reason, "index": index, **of})
        self._rows += new
        self._log.append(json_text(row) for row in new)
        self.flush()
        return new

    def flush(self) -> None:
        """Write pending rows; a full disk is logged once, and the next call tries again."""
        try:
            self._log.flush()
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("%s cannot be written, its rows are kept in memory: %s", self._log.path, error)
            self._failed = True

    def counts(self) -> dict[str, int]:
        """Return how many videos are listed, by kind, including earlier attempts."""
        kinds = collections.Counter(str(row.get("kind", "broken")) for row in self._rows)
        return dict(sorted(kinds.items()))


def _row(line: str) -> dict[str, Any] | None:
    """Return a row of the file, or None for a malformed line."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "path" in row and "index" in row else None


def _name(key: Any, index: Any, data: Any) -> str:
    return json.dumps([key, index, data])
