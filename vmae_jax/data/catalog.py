"""Datasets as their owners hand them out, read where they are: nothing is copied.

    call("data.sources.catalog", catalog=call("data.catalogs.kinetics.read", directory="k400"), split="train")

A catalog is a function `read(directory, …) -> Listing` that reads the owners' annotations. `@catalog()` makes it a
component: a config that names it reads nothing before its source is opened. `vmae data prepare --dataset=…` writes
records of the same rows.
"""

import csv
import dataclasses
import functools
import inspect
import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

from vmae_jax.data import catalogs
from vmae_jax.data.faults import Missing
from vmae_jax.data.listing import Listing, Row
from vmae_jax.data.video import Encoded
from vmae_jax.names import plain
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError, build, call, did_you_mean, resolve

__all__ = ["Catalog", "Rows", "catalog", "catalog_named", "open_catalog"]

_P = ParamSpec("_P")


@dataclasses.dataclass(frozen=True)
class Catalog:
    """A catalog and its arguments.

    Attributes:
      name: of the dataset.
      arguments: of the reading function, by name.
      function: reads the annotations.
    """

    name: str
    arguments: Mapping[str, Any]
    function: Callable[..., Listing] = dataclasses.field(repr=False)

    def listing(self) -> Listing:
        """Read the annotations.

        Raises:
          ConfigError: if a file is missing or malformed.
        """
        try:
            return self.function(**self.arguments)
        except ConfigError:
            raise
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
            raise ConfigError(f"{self.name}: {error.filename} cannot be read: {error.strerror}") from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, csv.Error) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ConfigError(f"{self.name}: an annotation file is malformed ({reason})") from error


def catalog(**choices: Sequence[Any]) -> Callable[[Callable[_P, Listing]], Callable[_P, Catalog]]:
    """Register a function that reads a listing, so that a call of it gives a `Catalog`, which reads when it is opened.

    Args:
      **choices: the values that an argument may have, for arguments with few of them.
    """

    def component(read: Callable[_P, Listing]) -> Callable[_P, Catalog]:
        name, signature = read.__module__.rpartition(".")[2], inspect.signature(read)

        @functools.wraps(read)
        def deferred(*positional: _P.args, **named: _P.kwargs) -> Catalog:
            given = signature.bind(*positional, **named)
            given.apply_defaults()
            for argument, values in choices.items():
                if (value := given.arguments[argument]) not in values:
                    known = ", ".join(map(str, values))
                    raise ConfigError(f"{name}: {argument}={value!r}; there are {known}")
            return Catalog(name, given.arguments, read)

        return register("catalog")(deferred)

    return component


class Rows:
    """The rows of a split as a source (see `source.Source`).

    `label_names` has the names of the classes in the order of their numbers, by label.

    Args:
      rows: in order.
      listing: that they are of.
      label: the field that is the label "label".
      missing: what of the split is not in the folder.
    """

    def __init__(
        self, rows: Sequence[Row], listing: Listing, *, label: str = "label", missing: Missing | None = None
    ) -> None:
        self.missing = missing
        self._rows, self._label = rows, label
        self.label_names: Mapping[str, tuple[str, ...]] = {
            self._renamed(name): tuple(map(plain, names)) for name, names in listing.names.items()
        }
        self._listing = dataclasses.replace(listing, splits={})  # other rows do not travel to processes that prepare

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def kinds(self) -> Mapping[str, str]:
        """How records store each field (see `prepare.record`): they have all, whatever is known of their rows."""
        labels = {self._renamed(name): "classes" if name == "labels" else "class" for name in self._listing.names}
        return labels | ({"text": "text"} if self._listing.text else {})

    def fetch(self, index: int) -> Encoded:
        """Return the example: its file, its pictures, or a moment of a long file; its caption is among the labels."""
        row = self._rows[index]
        text = {"text": row.labels["text"]} if "text" in row.labels else {}
        more: dict[str, Any] = {"labels": {**self.labels(index), **text}, "key": self.key(index)}
        if isinstance(row.video, tuple):
            return Encoded(frames=row.video, rate=row.rate, **more)
        moment = (*row.span, self._listing.short_side) if row.span else None
        return Encoded(path=row.video, moment=moment, **more)

    def key(self, index: int) -> str:
        """Return the name of an example, without fetching it."""
        return self._rows[index].key

    def labels(self, index: int) -> Mapping[str, Any]:
        """Return the classes of an example that are known, without fetching it; a caption is not one of them."""
        given = {name: value for name, value in self._rows[index].labels.items() if name != "text"}
        return {self._renamed(name): value for name, value in given.items() if isinstance(value, tuple) or value >= 0}

    def size(self, index: int) -> int:
        """Return the bytes of its file; -1 for pictures and for a part of a file."""
        row = self._rows[index]
        return os.path.getsize(row.video) if isinstance(row.video, str) and row.span is None else -1

    def files(self) -> list[str]:
        """Return the file of each video, or its first picture."""
        return [row.video if isinstance(row.video, str) else row.video[0] for row in self._rows]

    def subset(self, indices: Sequence[int]) -> "Rows":
        """Return some of the videos as a source of their own."""
        return Rows([self._rows[index] for index in indices], self._listing, label=self._label)

    def _renamed(self, name: str) -> str:
        return "label" if name == self._label else name


def open_catalog(catalog: Catalog, split: str, *, label: str = "label") -> tuple[Rows, list[tuple[str, str]]]:
    """Return the videos of a split, and (name, reason) of those that are not there.

    Raises:
      ConfigError: if a file is missing or malformed, there is no such split or field, or none of its videos is there.
    """
    listing = catalog.listing()
    if split not in listing.splits:
        raise ConfigError(f"{catalog.name} has no split {split!r} there; it has {', '.join(listing.splits)}")
    if label != "label" and label not in listing.names:
        raise ConfigError(f"{catalog.name} has no label {label!r}; it has {', '.join(listing.names) or 'none'}")
    part = listing.splits[split]
    if not part.rows:
        such = f", such as {part.absent[0].key}, which {part.absent[0].reason}" if part.absent else ""
        raise ConfigError(f"{catalog.name}: no video of {split!r} is there{such}")
    names = tuple(one.key for one in part.absent[:3])
    missing = Missing(f"{catalog.name}, {split}", len(part.absent), part.listed, part.listed, names)
    return Rows(part.rows, listing, label=label, missing=missing), [(one.key, one.reason) for one in part.absent]


def catalog_named(text: str, directory: str) -> Catalog:
    """Return the catalog that a command line names.

    Args:
      text: a catalog and its arguments, such as "kinetics:version=710" or "ucf101:split=2".
      directory: the folder with the owners' files.

    Raises:
      ConfigError: if there is no such catalog or argument.
    """
    name, _, arguments = text.partition(":")
    if not name.isidentifier():
        raise ConfigError(f"--dataset={text}: expected a catalog and its arguments, such as kinetics:version=710")
    known = sorted(found.name for found in pkgutil.iter_modules(catalogs.__path__))
    if name not in known:
        raise ConfigError(f"--dataset={text}: no such dataset{did_you_mean(name, known)}; there are {', '.join(known)}")
    function = f"data.catalogs.{name}.read"
    parameters = inspect.signature(resolve(function, "catalog")).parameters
    given = {key: value for key, _, value in (part.partition("=") for part in arguments.split(",") if part)}
    unknown = next((key for key in given if key not in parameters or key == "directory"), None)
    if unknown is not None:
        taken = [key for key in parameters if key != "directory"]
        raise ConfigError(f"--dataset={text}: no argument {unknown!r}{did_you_mean(unknown, taken)}; there are {taken}")
    typed = {key: _typed(text, key, value, parameters[key].default) for key, value in given.items()}
    return build(call(function, directory=directory, **typed), "catalog")


def _typed(text: str, key: str, value: str, default: Any) -> Any:
    try:
        return type(default)(value) if isinstance(default, int | float) else value
    except ValueError:
        raise ConfigError(f"--dataset={text}: {key}={value}: a value such as {default!r} was expected") from None
