"""Where the things beside videos are: files next to them, or the columns of a table.

    call("data.sides.beside", source=call("data.sources.folder", path="videos"), sides={
        "audio": call("data.sides.sidecar", suffix=".wav"),
        "text": call("data.sides.table", path="captions.csv", column="caption"),
    })

A loader's stream of the same name reads them (`data.streams`). What a video does not have is not valid in a
batch; nothing here opens a file of a single video, the decoding processes do.
"""

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from vmae_jax.data.source import Opener, Source, drawn_clips
from vmae_jax.data.texts import has_raw_bytes, listed_text
from vmae_jax.data.video import BadVideo, Encoded, Side
from vmae_jax.names import from_text, plain
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError

__all__ = ["Beside", "Finder", "Sidecar", "Sided", "Table", "beside", "check_found", "sidecar", "table"]

_REMOTE_BYTES = 64 << 20  # of a remote file beside a video, which passes through memory
_FIELD_CHARACTERS = 1 << 17  # of a text in a table, as Python's csv has it
_LOOKED = 10_000  # videos of which at least one must have a side
_COMPARED = 256  # videos whose files are compared between hosts
_LATEST = 1e9  # seconds: thirty years


class Finder(Protocol):
    """Finds what is beside a video."""

    def find(self, encoded: Encoded) -> Side | None: ...


class _Findable(Protocol):
    """What a config holds: a finder that is not open yet."""

    def open(self) -> Finder: ...


@register("source", source="source", sides="side", smoke=drawn_clips)
def beside(source: Any, sides: Mapping[str, Any]) -> "Beside":
    """A source whose videos have something beside them, for the streams of a loader.

    Args:
      source: of the videos; a mixture has sides in its parts.
      sides: by name, each from `data.sides`.
    """
    if not sides or getattr(source, "strides", None) is not None:
        raise ConfigError("data.sides.beside: at least one side by name, around a part of a mixture and not around it")
    return Beside(source, tuple(sorted(sides.items())))


@register("side")
def sidecar(suffix: str, root: str | None = None, start: float = 0.0) -> "Sidecar":
    """A file of each video: its name with another suffix.

    Args:
      suffix: in place of the video's, such as ".wav" or "_imu.csv".
      root: folder, local or gs://, in which the files are named after the keys of the videos (their names below their
        own folder); by default they are next to the videos, which have to be local files then.
      start: second of the file's own clock at which the video begins.
    """
    if not suffix or "/" in suffix or "\0" in suffix:
        raise ConfigError(f"suffix={suffix!r}: the end of a file name, such as '.wav'")
    if not math.isfinite(start) or abs(start) > _LATEST:
        raise ConfigError(f"start={start}: seconds, at most {_LATEST:g}")
    if root is not None and ("\0" in root or root.startswith(("http:", "https:"))):
        raise ConfigError(f"root={root!r}: a local folder or gs://…")
    return Sidecar(suffix, root, float(start))


@register("side")
def table(path: str, column: str, key: str = "path") -> "Table":
    """A column of a table: CSV or TSV with a first line of column names, or JSON objects, one a line (.jsonl).

    A video is looked up by its key (its name below the folder of its source, as messages have it), with or without
    its suffix. The values of several rows of one video come one a line. The file is UTF-8 with or without a byte order
    mark, or UTF-16 with one; names of files may hold bytes that are not UTF-8, texts may not.

    Args:
      path: the table, local or gs://.
      column: whose text is taken.
      key: the column of the videos' names.
    """
    return Table(path, column, key)


@dataclasses.dataclass(frozen=True)
class Beside:
    """See `beside`."""

    source: Opener
    sides: tuple[tuple[str, _Findable], ...]

    def open(self) -> "Sided":
        """Open the source and the tables.

        Raises:
          ConfigError: if one of them cannot be opened, or no video has one of the sides.
        """
        source, finders = self.source.open(), {name: side.open() for name, side in self.sides}
        for name, finder in finders.items():
            check_found(source, finder, f"data.sides.beside: sides[{name!r}]")
        return Sided(source, finders)


def check_found(source: Any, finder: Finder, option: str) -> None:
    """Check that at least one of the videos has a side; of more than 10,000, evenly spaced ones are looked at.

    Remote files are not looked for.

    Raises:
      ConfigError: if none has; it begins with `option`.
    """
    count = len(source)
    remote = isinstance(finder, Sidecar) and "://" in (finder.root or "")
    if remote or getattr(source, "record_bytes", 0) or not count:
        return
    looked = min(count, _LOOKED)
    if any(_has(source, finder, i * count // looked) for i in range(looked)):
        return
    which = f"{count:,} videos" if looked == count else f"{looked:,} videos that were looked at, of {count:,},"
    try:
        side = finder.find(source.fetch(0))
        example = f", such as {side.path}" if side is not None and side.path else ""
    except (OSError, ValueError):
        example = ""
    what = f"a file with the suffix {finder.suffix!r}" if isinstance(finder, Sidecar) else "a row in the table"
    raise ConfigError(f"{option}: 0 of the {which} have {what}{example}; check the spelling and the folder")


def _has(source: Any, finder: Finder, index: int) -> bool:
    """Whether a video has a side that exists."""
    try:
        side = finder.find(source.fetch(index))
        return side is not None and (side.path is None or os.path.exists(side.path))
    except (OSError, ValueError):
        return False


class Sided:
    """A source with something beside its videos (see `source.Source`)."""

    def __init__(self, source: Source, finders: Mapping[str, Finder]) -> None:
        self._source, self._finders = source, finders
        self.sources = (source,)
        self.label_names = source.label_names
        self.missing = getattr(source, "missing", None)
        self.refused = getattr(source, "refused", ())
        self.record_bytes = getattr(source, "record_bytes", 0)

    def __len__(self) -> int:
        return len(self._source)

    def fetch(self, index: int) -> Encoded:
        """The example with what is beside it. Raises BadVideo: if it, or a remote file beside it, cannot be fetched."""
        encoded = self._source.fetch(index)
        found = {name: side for name, finder in self._finders.items() if (side := finder.find(encoded)) is not None}
        return dataclasses.replace(encoded, sides={**encoded.sides, **found})

    def facts(self) -> Iterator[str]:
        """Yield what hosts compare: the tables, and for some videos the sizes of the files beside them."""
        for name, finder in sorted(self._finders.items()):
            if isinstance(finder, _Rows):
                yield f"{name} {finder.digest()}"
                continue
            step = max(1, -(-len(self) // _COMPARED))
            for index in range(0, len(self), step):
                yield f"{name} {index} {self._size(finder, index)}"

    def _size(self, finder: Finder, index: int) -> int:
        """The bytes of what is beside a video; -1 where there is nothing, or it cannot be read."""
        try:
            side = finder.find(self._source.fetch(index))
            return -1 if side is None else len(side.data or b"") if side.path is None else os.stat(side.path).st_size
        except (OSError, ValueError):
            return -1


@dataclasses.dataclass(frozen=True)
class Sidecar:
    """See `sidecar`; it has nothing to open."""

    suffix: str
    root: str | None
    start: float

    def open(self) -> "Sidecar":
        """Return itself."""
        return self

    def find(self, encoded: Encoded) -> Side | None:
        """The file of a video, whether or not it exists; of a remote folder its bytes, where it does."""
        path = self._path(encoded)
        if path is None or "://" not in path:
            return Side(path=path, start=self.start) if path else None
        from etils import epath

        file = epath.Path(path)
        try:
            if not file.exists():
                return None
            if file.stat().length > _REMOTE_BYTES:
                raise BadVideo(f"{os.path.basename(path)} has more than {_REMOTE_BYTES >> 20} MiB")
            return Side(data=file.read_bytes(), start=self.start)
        except OSError as error:
            raise BadVideo(f"{os.path.basename(path)} cannot be fetched: {error}") from error

    def _path(self, encoded: Encoded) -> str | None:
        if self.root is not None:
            name = os.path.normpath(_file_name(encoded.key))
            if not encoded.key or os.path.isabs(name) or name.split(os.sep)[0] == os.pardir:
                raise BadVideo(f"is called {encoded.key!r}, which is no name below a folder")
            root = self.root if "://" in self.root else os.path.expanduser(self.root)
            return f"{root.rstrip('/')}/{os.path.splitext(name)[0]}{self.suffix}"
        path = encoded.path if encoded.span is None else None
        if path is None and encoded.frames and isinstance(encoded.frames[0], str):
            first = encoded.frames[0]
            path = first if len(encoded.frames) == 1 else os.path.dirname(first) + os.extsep
        return path and os.path.splitext(path)[0] + self.suffix


@dataclasses.dataclass(frozen=True)
class Table:
    """See `table`."""

    path: str
    column: str
    key: str

    def open(self) -> "_Rows":
        """Read the table.

        Raises:
          ConfigError: if it cannot be read or has no such columns.
        """
        text = listed_text(self.path, f"data.sides.table: {self.path}")
        try:
            rows = _json_lines(text) if self.path.endswith((".jsonl", ".ndjson")) else self._csv(text)
            return _Rows(self._values(rows, raw=has_raw_bytes(text)))
        except ConfigError:
            raise
        except (ValueError, RecursionError, csv.Error) as error:
            detail = " ".join(str(error).split())[:200]
            raise ConfigError(f"data.sides.table: {self.path} cannot be read: {detail}") from error

    def _csv(self, text: str) -> Iterator[dict[str, Any]]:
        mark = "\t" if self.path.endswith(".tsv") else ","
        return csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=mark)

    def _values(self, rows: Iterable[Mapping[str, Any]], raw: bool) -> dict[str, str]:
        found: dict[str, list[str]] = {}
        for number, row in enumerate(rows, 1):
            lacking = next((name for name in (self.key, self.column) if not isinstance(row.get(name), str)), None)
            if lacking is not None:
                raise ConfigError(
                    f"data.sides.table: row {number} of {self.path} has no text in a column {lacking!r}; "
                    f"it has {', '.join(str(name) for name in row)[:200]}"
                )
            value = " ".join(row[self.column].split())
            if raw and has_raw_bytes(value):
                raise ConfigError(
                    f"data.sides.table: row {number} of {self.path}: {self.column!r} is no UTF-8 text; "
                    f"convert the table, for example with: iconv -f LATIN1 -t UTF-8"
                )
            if len(value) > _FIELD_CHARACTERS:
                raise ConfigError(
                    f"data.sides.table: row {number} of {self.path}: {self.column!r} has {len(value):,} characters; "
                    f"at most {_FIELD_CHARACTERS:,} are read"
                )
            found.setdefault(plain(row[self.key]), []).append(value)
        return {key: "\n".join(values) for key, values in found.items()}


class _Rows:
    """A table in memory."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def digest(self) -> str:
        """Of all keys and texts."""
        return hashlib.sha256(json.dumps(sorted(self._values.items())).encode()).hexdigest()

    def find(self, encoded: Encoded) -> Side | None:
        names = (encoded.key, os.path.splitext(encoded.key)[0])
        text = next((self._values[name] for name in names if name in self._values), None)
        return None if text is None else Side(data=text.encode(errors="replace"))


def _file_name(key: str) -> str:
    """Return the name of a file whose key it is (`names.as_text`); of another key itself."""
    try:
        return from_text(key)
    except ValueError:
        return key


def _json_lines(text: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if any(not isinstance(row, dict) for row in rows):
        raise json.JSONDecodeError("a line that is no object", text, 0)
    return rows
