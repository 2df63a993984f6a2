"""Labels: what a source has of each video, and how it comes into a batch.

A source gives values by name (`Encoded.labels`): a class number, several, or numbers. The loader's
`labels` chooses those that a batch has, and their form:

    labels=True                                                # batch["label"], one class
    labels={"labels": call("data.labels.many", classes=157)}   # several classes a video: 0 or 1 for each
    labels={"verb": call("data.labels.one"), "noun": call("data.labels.one")}
    labels={"label": call("data.labels.numbers", size=2)}      # regression
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vmae_jax.data.streams.core import RESERVED
from vmae_jax.data.texts import read_text
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError, did_you_mean

__all__ = ["NUMBER", "Field", "Value", "fields", "many", "numbers", "one", "read_column", "read_names"]

Value = Any  # int, a tuple of whole numbers (classes) or of floats; None where there is none
_WHOLE = re.compile(r"-?\d+")
NUMBER = r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_NUMBER = re.compile(NUMBER)
_DIGITS = 18  # of a whole number


@dataclasses.dataclass(frozen=True)
class Field:
    """How a label stands in a batch.

    Attributes:
      kind: "one" class, int32; "many" classes, float32 of 0 and 1; "numbers", float32.
      size: how many columns; 0 where it is a single number a video.
    """

    kind: str
    size: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,) if self.size else ()

    @property
    def dtype(self) -> Any:
        return np.int32 if self.kind == "one" else np.float32

    def array(self, value: Value, what: str) -> np.ndarray:
        """The value of a video, as its row of the batch.

        Args:
          value: as the source gives it.
          what: of which video, for messages.

        Raises:
          ConfigError: there is none, a class that is not there, another number of them.
        """
        if self.kind == "many":
            return self._hot(value, what)
        given = np.atleast_1d(np.asarray(() if value is None else value))
        if self.kind == "one":
            if given.shape != (1,) or not abs(float(given[0])) < 1 << 31 or given[0] != int(given[0]):
                raise ConfigError(f"{what} has {_shown(value)}, where one class is wanted")
            return given[0].astype(np.int32)
        if given.shape != (self.size,) or not np.isfinite(given.astype(np.float64)).all():
            raise ConfigError(f"{what} has {_shown(value)}, where {self.size} finite numbers are wanted")
        return given.astype(np.float32)

    def _hot(self, value: Value, what: str) -> np.ndarray:
        if value is None:
            raise ConfigError(f"{what} has no label; a video of no class has an empty list")
        given = np.atleast_1d(np.asarray(value))
        if given.dtype.kind == "f" and given.size:  # 0 or 1 for every class already
            if given.shape != (self.size,) or not ((given >= 0) & (given <= 1)).all():
                raise ConfigError(f"{what} has {_shown(value)}, where {self.size} numbers from 0 to 1 are wanted")
            return given.astype(np.float32)
        wrong = [int(number) for number in given if not 0 <= number < self.size]
        if wrong:
            raise ConfigError(f"{what} has class {wrong[0]}, but there are {self.size} classes, 0 to {self.size - 1}")
        hot = np.zeros(self.size, np.float32)
        hot[given.astype(int)] = 1.0
        return hot


@register("label")
def one() -> Field:
    """One class a video: its number."""
    return Field("one")


@register("label", smoke=lambda given: {"classes": max(given["classes"], 10)})  # of the drawn clips
def many(classes: int) -> Field:
    """Several classes a video, or none: the source gives their numbers, or 0 or 1 for every class.

    Args:
      classes: how many there are.
    """
    if classes < 1:
        raise ConfigError(f"data.labels.many: classes={classes}; at least 1")
    return Field("many", classes)


@register("label", smoke={"size": 1})
def numbers(size: int = 1) -> Field:
    """Numbers to be predicted, such as a score or an angle.

    Args:
      size: how many a video.
    """
    if size < 1:
        raise ConfigError(f"data.labels.numbers: size={size}; at least 1")
    return Field("numbers", size)


def fields(labels: bool | Mapping[str, Field]) -> dict[str, Field]:
    """The loader's `labels` by name. Raises ConfigError: a name that batches have already, no field."""
    if isinstance(labels, bool):
        return {"label": one()} if labels else {}
    for name, field in labels.items():
        if name in RESERVED or not isinstance(field, Field):
            raise ConfigError(f"loader: labels[{name!r}]: call('data.labels.one'), many or numbers, under a free name")
    return dict(labels)


def read_names(path: str, what: str = "data source") -> tuple[str, ...]:
    """The classes' names in a text file, one a line, in the order of their numbers.

    Raises:
      ConfigError: it cannot be read, is empty, or has a name twice.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what}: {path} is no list of names: {getattr(error, 'strerror', None) or error}") from None
    names = tuple(line.strip() for line in lines if line.strip())
    double = [name for name, count in collections.Counter(names).items() if count > 1]
    if not names or double:
        raise ConfigError(f"{what}: {path} {f'has {double[0]!r} twice' if double else 'has no names'}")
    return names


def read_column(
    texts: Sequence[str], names: Sequence[str], where: Callable[[int], str]
) -> tuple[list[Value], tuple[str, ...]]:
    """The labels of a list's column, and the names of its classes where it has names.

    A field holds a class number, a name, or numbers; several stand between semicolons (`3;17`,
    `run;jump`, `0.5;1.25`). `-` is a video of no class, a single negative number one without a label.

    Args:
      texts: the column.
      names: of the classes in the order of their numbers; () takes those of the column, sorted.
      where: the place of a row, for messages.

    Raises:
      ConfigError: names among numbers, or a name that is not in `names`.
    """
    split = [[] if text.strip() == "-" else [p.strip() for p in text.split(";") if p.strip()] for text in texts]
    parts = [(row, part) for row, found in enumerate(split) for part in found]
    words = [(row, part) for row, part in parts if not _NUMBER.fullmatch(part)]
    if not words:
        whole = all(_WHOLE.fullmatch(part) for _, part in parts)
        long = next(((row, part) for row, part in parts if whole and len(part.lstrip("-")) > _DIGITS), None)
        if long is not None:
            raise ConfigError(f"data source: {where(long[0])}: label {long[1][:40]} has more than {_DIGITS} digits")
        single = all(len(found) == 1 for found in split)
        return [_numeric(found, whole, single) for found in split], tuple(names)
    if len(words) != len(parts):
        row, word = words[0]
        raise ConfigError(f"data source: {where(row)}: label {word!r} among labels that are numbers")
    known = tuple(names) or tuple(sorted({word for _, word in words}))
    number = {name: i for i, name in enumerate(known)}
    for row, word in words:
        if word not in number:
            raise ConfigError(f"data source: {where(row)}: unknown label {word!r}{did_you_mean(word, known)}")
    classes = [tuple(number[word] for word in found) for found in split]
    return [found[0] if len(found) == 1 else found for found in classes], known


def _numeric(found: Sequence[str], whole: bool, single: bool) -> Value:
    if not whole:
        return tuple(float(part) for part in found)
    if single and int(found[0]) < 0:
        return None
    return int(found[0]) if len(found) == 1 else tuple(int(part) for part in found)


def _shown(value: Value) -> str:
    if value is None:
        return "no label"
    text = str(np.asarray(value).tolist())
    return f"label {text if len(text) < 60 else text[:57] + '…'}"
