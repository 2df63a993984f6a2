"""A data set as its owners hand it out, read where it lies: nothing is copied.

    call("data.loose", config=call("data.builders.kinetics.config", version="400", directory="k400"))

The same videos, labels and splits as the records that the builder makes; `vmae data prepare --dataset=…`
reads them this way, too.
"""

import inspect
import os
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from vmae_jax.data import builders
from vmae_jax.data.listed_builder import Settings
from vmae_jax.data.listing import Listing, Row
from vmae_jax.data.missing import Missing
from vmae_jax.data.smoke import drawn_clips
from vmae_jax.data.video import Encoded
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError, build, call, did_you_mean, resolve

__all__ = ["Loose", "Rows", "loose", "open_dataset"]


@register("source", config="dataset", smoke=drawn_clips)
def loose(config: Any, split: str = "train") -> "Loose":
    """A split of a data set of `data.builders`, from its owners' files.

    Args:
      config: of one of the builders that read owners' files, with its directory.
      split: its name.
    """
    if not isinstance(config, Settings):
        raise ConfigError(f"data.loose takes config=call('data.builders.….config', directory=…), not {config!r}")
    return Loose(config, split)


class Loose:
    """See `loose`."""

    def __init__(self, settings: Settings, split: str) -> None:
        self._settings = settings
        self._split = split

    def __repr__(self) -> str:
        return f"Loose({self._settings!r}, {self._split!r})"

    def open(self) -> "Rows":
        """Reads the annotations. Raises ConfigError: a file that is missing or wrong, no such split, no video."""
        return _open(self._settings, self._split)[0]


class Rows:
    """The rows of a split as a source (see `sources.Source`)."""

    def __init__(self, rows: Sequence[Row], listing: Listing, missing: Missing | None = None) -> None:
        self.label_names = dict(listing.names)
        self.missing = missing
        self._rows = rows
        self._short_side = listing.short_side

    def __len__(self) -> int:
        return len(self._rows)

    def fetch(self, index: int) -> Encoded:
        """The example: its file, its pictures, or a moment of a long file."""
        row = self._rows[index]
        more: dict[str, Any] = {"labels": self.labels(index), "key": self.key(index)}
        if isinstance(row.video, tuple):
            return Encoded(frames=row.video, rate=row.rate, **more)
        moment = (*row.span, self._short_side) if row.span else None
        return Encoded(path=row.video, moment=moment, **more)

    def key(self, index: int) -> str:
        """The name of an example, without fetching it."""
        return self._rows[index].key

    def labels(self, index: int) -> Mapping[str, Any]:
        """Its classes, without fetching it; captions are no labels."""
        return {name: value for name, value in self._rows[index].labels.items() if name != "text"}

    def size(self, index: int) -> int:
        """The bytes of its file; -1 of pictures, and of a part of a file."""
        row = self._rows[index]
        return os.path.getsize(row.video) if isinstance(row.video, str) and row.span is None else -1

    def files(self) -> list[str]:
        """The file of each video, or its first picture."""
        return [row.video if isinstance(row.video, str) else row.video[0] for row in self._rows]

    def subset(self, indices: Sequence[int]) -> "Rows":
        """Some of the videos, as a source of their own."""
        chosen = object.__new__(Rows)
        chosen.__dict__.update(self.__dict__, _rows=[self._rows[index] for index in indices])
        return chosen


def open_dataset(text: str, directory: str, split: str) -> tuple[Rows, list[tuple[str, str]]]:
    """A split of a data set named on the command line, and what of it is not there, with the reason.

    Args:
      text: a builder and its arguments, such as "kinetics:version=710" or "ucf101:split=2".
      directory: the owners' files.
      split: its name.

    Raises:
      ConfigError: no such builder or argument, a file that is missing or wrong.
    """
    name, _, arguments = text.partition(":")
    function = f"data.builders.{name}.config"
    if not name.isidentifier():
        raise ConfigError(f"--dataset={text}: a builder's name, and its arguments behind a colon: kinetics:version=710")
    known = sorted(found.name for found in pkgutil.iter_modules(builders.__path__))
    if name not in known:
        raise ConfigError(
            f"--dataset={text}: no such data set{did_you_mean(name, known)}; there are {', '.join(known)}"
        )
    parameters = inspect.signature(resolve(function, "dataset")).parameters
    if "directory" not in parameters:
        raise ConfigError(f"--dataset={text}: {name} reads no files of owners")
    given = {key: value for key, _, value in (part.partition("=") for part in arguments.split(",") if part)}
    unknown = next((key for key in given if key not in parameters or key == "directory"), None)
    if unknown is not None:
        taken = [key for key in parameters if key != "directory"]
        raise ConfigError(f"--dataset={text}: no argument {unknown!r}{did_you_mean(unknown, taken)}; there are {taken}")
    typed = {key: _typed(text, key, value, parameters[key].default) for key, value in given.items()}
    return _open(build(call(function, directory=directory, **typed), "dataset"), split)


def _open(settings: Settings, split: str) -> tuple[Rows, list[tuple[str, str]]]:
    listing = settings.listing()
    if split not in listing.splits:
        raise ConfigError(f"{settings.dataset} has no split {split!r} there; it has {', '.join(listing.splits)}")
    part = listing.splits[split]
    if not part.rows:
        such = f", such as {part.absent[0].key}, which {part.absent[0].reason}" if part.absent else ""
        raise ConfigError(f"{settings.dataset}: no video of {split!r} is there{such}")
    names = tuple(one.key for one in part.absent[:3])
    missing = Missing(f"{settings.dataset}, {split}", len(part.absent), part.listed, part.listed, names)
    return Rows(part.rows, listing, missing), [(one.key, one.reason) for one in part.absent]


def _typed(text: str, key: str, value: str, default: Any) -> Any:
    try:
        return type(default)(value) if isinstance(default, int | float) else value
    except ValueError:
        raise ConfigError(f"--dataset={text}: {key}={value}: a value such as {default!r} was expected") from None
