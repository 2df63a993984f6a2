"""Lists of videos in the official formats, and their labels."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vmae_jax.data.faults import check_missing, look_for
from vmae_jax.data.files import Entry, Files, expand, is_remote
from vmae_jax.data.labels import NUMBER, read_column, read_names
from vmae_jax.data.streams.core import RESERVED
from vmae_jax.data.texts import listed_text
from vmae_jax.data.video import PICTURE_SUFFIXES, VIDEO_SUFFIXES, Limits
from vmae_jax.names import plain
from vmae_jax.spec import ConfigError

__all__ = ["open_csv"]

_SUFFIX = "|".join(re.escape(suffix) for suffix in VIDEO_SUFFIXES + PICTURE_SUFFIXES)
_VIDEO = re.compile(rf"(.*(?:{_SUFFIX}))(?:[\s,]+(.*))?", re.IGNORECASE)
_FIELD = re.compile(rf"{NUMBER}(?:;{NUMBER})*|-")
_NUMBERS = re.compile(rf"{NUMBER}(?:;{NUMBER})*")
_HEADERS = {"path", "video", "videos", "video_path", "file", "filename", "name", "video_id", "youtube_id", "label"}
_COLUMNS = {1: ("path",), 2: ("path", "label"), 3: ("path", "start", "count"), 4: ("path", "start", "count", "label")}
_PLACE = ("path", "start", "count")  # the columns that are no labels


def open_csv(
    path: str,
    *,
    root: str = "",
    columns: str | None = None,
    pictures: str = "img_{:05}.jpg",
    names: Mapping[str, str] | None = None,
) -> Files:
    """The videos of a list; see `sources.csv`.

    Raises:
      ConfigError: if there is no such list, it is empty, a line cannot be read (with its number), or no video is there.
    """
    lines = _lines(path)
    where = lambda row: f"{path}, line {lines[row][0]}"  # noqa: E731
    header = _columns(columns, [line for _, line in lines])
    base = expand(root) if root else os.path.dirname(expand(path))
    rows = [_row(line, header, base, where(i)) for i, (_, line) in enumerate(lines)]
    labelled = [name for name in header if name not in _PLACE]
    for name in names or {}:
        if name not in labelled:
            raise ConfigError(f"data source: names[{name!r}]: {path!r} has no such column, only {', '.join(header)}")
    listed = {name: read_names(file) for name, file in (names or {}).items()}
    found = {name: read_column([row[3][name] for row in rows], listed.get(name, ()), where) for name in labelled}
    labels = zip(*(values for values, _ in found.values()), strict=True) if labelled else [()] * len(rows)
    entries = [
        Entry(*row[:3], dict(zip(labelled, values, strict=True))) for row, values in zip(rows, labels, strict=True)
    ]
    label_names = {name: known for name, (_, known) in found.items() if known}
    local = [entry.path for entry in entries if not is_remote(entry.path)]
    hint = f"; root={base!r} is what relative paths are relative to"
    missing = look_for(local, repr(path), hint) if local else None
    if missing is not None and missing.count == missing.looked:
        check_missing(missing, limit=1.0)
    return Files(entries, root=base + "/", label_names=label_names, pictures=pictures, missing=missing)


class _Line(NamedTuple):
    """The path of a line and the fields after it; not `sure` where numbers may belong to the path."""

    fields: list[str]
    sure: bool


def _lines(path: str) -> list[tuple[int, _Line]]:
    """Every line that is not empty, with its number."""
    text = listed_text(expand(path), f"data source: the list {path!r}")
    found = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):  # a name may hold other breaks
        line = line.strip(" \t")
        if not line or (not found and set(re.split(r"[\s,]+", line.lower())) & _HEADERS and not _VIDEO.fullmatch(line)):
            continue
        found.append((number, _split(line)))
    if not found:
        raise ConfigError(f"data source: the list {path!r} is empty")
    return found


def _split(line: str) -> _Line:
    """A path, which may hold spaces, and the fields after it.

    The path ends at the last video suffix; without one (a folder of pictures), before the
    numbers that end the line. Quotes around it settle the matter.
    """
    match = re.fullmatch(r'"([^"]*)"(?:[\s,]+(.*))?', line) or _VIDEO.fullmatch(line)
    if match:
        rest = (match[2] or "").strip()
        numbers = re.split(r"[\s,]+", rest) if rest else []
        if all(_FIELD.fullmatch(field) for field in numbers):
            return _Line([match[1], *numbers], True)
        return _Line([match[1], *(part.strip().strip('"') for part in rest.split(","))], True)  # a name may hold spaces
    parts = re.split(r"([\s,]+)", line)  # fields, and what is between them
    end = len(parts)
    while end > 1 and _NUMBERS.fullmatch(parts[end - 1]):
        end -= 2
    return _Line(["".join(parts[:end]), *parts[end + 1 :: 2]], False)


def _columns(columns: str | None, lines: Sequence[_Line]) -> tuple[str, ...]:
    if columns is None:
        sure = [len(line.fields) for line in lines if line.sure]
        count = max(set(sure), key=sure.count) if sure else min(len(line.fields) for line in lines)
        return _COLUMNS[min(count, 4)]
    names = tuple(columns.replace(",", " ").split())
    taken = [name for name in names if names.count(name) > 1 or name in RESERVED or not name.isidentifier()]
    if not names or names[0] != "path" or taken:
        raise ConfigError(
            f"columns={columns!r}: 'path', and then 'start', 'count' or labels under names of their own, "
            f"such as 'path label' or 'path,verb,noun'"
        )
    return names


def _row(line: _Line, names: tuple[str, ...], base: str, where: str) -> tuple[str, int, int, dict[str, str]]:
    split, extra = line.fields, len(line.fields) - len(names)
    if extra > 0 and not line.sure:  # numbers that belong to the folder's own name
        split = [" ".join(split[: extra + 1]), *split[extra + 1 :]]
    if len(split) != len(names) or not split[0]:
        empty = "; an empty label is written as two quotes" if len(split) == len(names) - 1 else ""
        raise ConfigError(
            f"data source: {where}: {' '.join(split)!r} is not '{' '.join(names)}' as the rest of the list{empty}"
        )
    fields = dict(zip(names, split, strict=True))
    try:
        start, count = int(fields.get("start", 0)), int(fields.get("count", -1))
    except ValueError:
        raise ConfigError(f"data source: {where}: {split[1:]} should be {' '.join(names[1:])}, numbers") from None
    if "count" in fields and count == 0:
        raise ConfigError(f"data source: {where}: a folder of 0 pictures (a video has -1)")
    if max(abs(start), count) > Limits().frames:
        raise ConfigError(f"data source: {where}: {max(abs(start), count):,} pictures; at most {Limits().frames:,}")
    if "count" in fields and "start" not in fields:
        start = 1  # the official picture files count from 1
    labels = {name: plain(text) for name, text in fields.items() if name not in _PLACE}
    return _join(base, fields["path"], where), start, count, labels


def _join(base: str, path: str, where: str) -> str:
    if is_remote(path) or os.path.isabs(path):
        return path
    joined = os.path.join(base, path)
    if not is_remote(base) and os.path.relpath(joined, base).split(os.sep)[0] == os.pardir:
        raise ConfigError(f"data source: {where}: {path!r} leads out of {base!r}; write it in full if that is meant")
    return joined
