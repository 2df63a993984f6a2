"""What a dataset consists of, before any video is read: its rows, splits and class names.

The owners of a dataset hand out videos and annotation files. A catalog (`data.catalogs`) reads the annotations in a
folder of the user and gives a `Listing`: class names, splits and labels come from the owners' files alone.
"""

import csv
import dataclasses
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vmae_jax.data.files import walk
from vmae_jax.data.texts import read_text
from vmae_jax.names import plain
from vmae_jax.spec import ConfigError

__all__ = ["Absent", "Listing", "Manual", "Row", "Split", "Videos", "class_numbers"]


class Row(NamedTuple):
    """One example.

    Attributes:
      key: its name, different from all others of its split.
      video: a video file, or the pictures of its frames in order.
      labels: values by name: a class number ("label", "verb", "noun"), class numbers ("labels"),
        or text ("text"). A class of -1 is unknown (test splits whose labels are held back).
      span: the seconds of the file that are the example; None is all of it.
      rate: frames a second, of pictures.
    """

    key: str
    video: str | tuple[str, ...]
    labels: Mapping[str, Any]
    span: tuple[float, float] | None = None
    rate: float | None = None


class Absent(NamedTuple):
    """A video that the annotations name and the folder does not hold, or that cannot be used."""

    key: str
    reason: str


class Split:
    """The rows of a split, in the order of the annotations, and what of it is not there."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.absent: list[Absent] = []
        self._keys: set[str] = set()

    @property
    def listed(self) -> int:
        """Videos that the annotations name."""
        return len(self.rows) + len(self.absent)

    def add(self, key: str, video: str | tuple[str, ...] | None, **more: Any) -> None:
        """Adds a row, or what is `absent`: a video that was not found, a name that came before."""
        key = plain(key)
        if key in self._keys:
            self.absent.append(Absent(key, "is listed twice"))
        elif not video:
            self.absent.append(Absent(key, "is not in the folder"))
        else:
            self._keys.add(key)
            self.rows.append(Row(key, video, more.pop("labels", {}), **more))


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a dataset consists of.

    Attributes:
      names: the classes' names in the order of their numbers, by label ("label", "verb", …).
      splits: the splits by name.
      text: rows have a "text" (a caption).
      short_side: pixels that a stored part of a long file is shrunk to.
    """

    names: Mapping[str, tuple[str, ...]]
    splits: Mapping[str, Split]
    text: bool = False
    short_side: int | None = None


class Videos:
    """The video files below some folders, by the stem of their names, whatever folders they are in."""

    def __init__(self, files: Iterable[str]) -> None:
        self._paths: dict[str, str] = {}
        for path in files:
            stem = os.path.splitext(os.path.basename(path))[0]
            # Owners put repaired copies of damaged files into a folder of their own, beside the rest.
            if stem not in self._paths or "replacement" in path:
                self._paths[stem] = path

    def __len__(self) -> int:
        return len(self._paths)

    def paths(self) -> Iterable[str]:
        """The files, in the order of their names."""
        return self._paths.values()

    def find(self, *stems: str) -> str | None:
        """The file of the first of these stems that there is."""
        return next((self._paths[stem] for stem in stems if stem in self._paths), None)


class Manual:
    """A folder that a user filled with what the owners of a dataset hand out.

    Args:
      dataset: its name, for messages.
      directory: the folder.
      layout: what belongs in it, in one line, for messages.
      beside: folders in it that may hold the annotations, which are otherwise in the folder itself.

    Raises:
      ConfigError: if there is no such folder.
    """

    def __init__(self, dataset: str, directory: str, *, layout: str, beside: Sequence[str] = ("annotations",)) -> None:
        self.dataset = dataset
        self.layout = layout
        self._places = ("", *(f"{folder}/" for folder in beside))
        self.directory = os.path.abspath(os.path.expanduser(directory))
        if not os.path.isdir(self.directory):
            raise ConfigError(f"{dataset}: there is no folder {self.directory}; it should hold {layout}")

    def error(self, message: str) -> ConfigError:
        """A mistake in the folder, with what belongs there."""
        return ConfigError(f"{self.dataset}: {message} in {self.directory}; it should hold {self.layout}")

    def find(self, *names: str) -> str | None:
        """The first of these files or folders (relative, owners' names differ) that is there.

        Raises:
          ConfigError: a name that leads out of the folder.
        """
        for name in names:
            if os.path.isabs(name) or os.pardir in name.split("/"):  # names come out of files, too
                raise self.error(f"the name {name!r} leads out of the folder")
            path = os.path.join(self.directory, name)
            if os.path.exists(path):
                return path
        return None

    def need(self, *names: str) -> str:
        """As `find`. Raises ConfigError: none of them is there."""
        path = self.find(*names)
        if path is None:
            raise self.error(f"there is no {' or '.join(names)}")
        return path

    def annotations(self, *names: str) -> list[str]:
        """Return the places where a file of annotations may be, for `find` and `need`: by name, then by folder."""
        return [f"{place}{name}" for name in names for place in self._places]

    def text(self, path: str) -> str:
        """A file's text. Raises ConfigError: it cannot be read."""
        try:
            return read_text(path)
        except OSError as error:
            raise self.error(f"{path} cannot be read ({error.strerror or error})") from error
        except ValueError as error:
            raise self.error(f"{path} {error},") from error

    def lines(self, path: str) -> list[str]:
        """Every line that is not empty."""
        return [line.strip() for line in re.split(r"\r\n?|\n", self.text(path)) if line.strip()]

    def json(self, path: str, kind: type) -> Any:
        """A file's JSON, a `list` or a `dict`. Raises ConfigError: it is none."""
        try:
            data = json.loads(self.text(path))
        except (ValueError, RecursionError) as error:
            raise self.error(f"{path} is no JSON ({' '.join(str(error).split())[:200]})") from error
        if not isinstance(data, kind):
            raise self.error(f"{path} holds no JSON {kind.__name__}")
        return data

    def table(
        self, path: str, columns: Sequence[str], *, header: bool = True, optional: Sequence[str] = (), mark: str = ","
    ) -> Iterator[dict[str, str]]:
        """The rows of a table (CSV), by column, one after another.

        Args:
          columns: those that must be there.
          header: the first line names the columns; otherwise they are `columns`, then `optional`.
          optional: columns that may be there.
          mark: what separates fields.

        Raises:
          ConfigError: a column, or a field of a line, is missing.
        """
        lines = csv.reader(io.StringIO(self.text(path), newline=""), delimiter=mark)
        names = [name.strip() for name in next(lines, ())] if header else [*columns, *optional]
        lacking = [name for name in columns if name not in names]
        if lacking:
            raise self.error(f"{path} has no column {lacking[0]!r}, only {', '.join(names) or 'nothing'}")
        places = [(name, names.index(name)) for name in (*columns, *optional) if name in names]
        required = max(place for name, place in places if name in columns)
        for line in lines:
            if len(line) > required:
                yield {name: line[place].strip() for name, place in places if place < len(line)}
            elif any(line):
                raise self.error(f"{path}, line {lines.line_num}: {mark.join(line)!r} has too few fields")

    def videos(self, *folders: str) -> Videos:
        """The videos below these folders (those that are there), by default below all of it.

        Raises:
          ConfigError: there is no video at all.
        """
        roots = [os.path.join(self.directory, name) for name in folders or ("",)]
        found = Videos(path for root in roots for path in sorted(walk(root)))
        if not len(found):
            where = f" in {' or '.join(folders)}" if folders else ""
            raise self.error(f"there is no video{where}")
        return found


def class_numbers(names: Sequence[str]) -> dict[str, int]:
    """Number by name."""
    return {name: number for number, name in enumerate(names)}
