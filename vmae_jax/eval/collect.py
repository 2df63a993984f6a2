"""What the evaluators share: outputs gathered per video, exactly once each, on every host alike."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vmae_jax.eval.scores import finite, single
from vmae_jax.types import Batch, Extra, Method, Params

__all__ = ["About", "Found", "Programs", "Results", "embed", "embed_both", "labelled", "per_video", "unit", "whole"]


class Results(dict[str, float]):
    """Numbers by name, and what is written beside them.

    Attributes:
      tables: file name -> rows, the first of which are the columns' names.
      files: file name -> content, such as pictures.
    """

    def __init__(
        self,
        numbers: Mapping[str, float],
        tables: Mapping[str, list[list[Any]]] | None = None,
        files: Mapping[str, bytes] | None = None,
    ):
        super().__init__(numbers)
        self.tables = dict(tables or {})
        self.files = dict(files or {})


class Programs:
    """Compiled functions by what they do, which live as long as this: what comes again is not compiled again.

    Args:
      compiled: compiles a function for the devices that parameters and batches are on.
    """

    def __init__(self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = jax.jit):
        self._compiled = compiled
        self._known: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(
        self, key: tuple[Any, ...], function: Callable[..., Any], *, alone: bool = False
    ) -> Callable[..., Any]:
        """The compiled `function`, or what was compiled under the key before.

        Args:
          key: all that the function depends on beside its arguments; the method's own function first.
          function: of parameters and a batch.
          alone: of arrays of this process, on its first device.
        """
        if key not in self._known:
            self._known[key] = jax.jit(function) if alone else self._compiled(function)
        return self._known[key]


@dataclasses.dataclass(frozen=True)
class About:
    """What an evaluator may know beside parameters and batches, which takes it as `about`.

    Attributes:
      label_names: by label, its classes' names in order, where they have names.
      name: gives the name of a video by its number; None where videos have none.
      carried: gives the method's carried state and its frozen networks, read only when asked for.
      programs: what was compiled so far.
    """

    label_names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    name: Callable[[int], str] | None = None
    carried: Callable[[], tuple[Extra, Params]] = lambda: (None, None)
    programs: Programs = dataclasses.field(default_factory=Programs)


@dataclasses.dataclass(frozen=True)
class Found:
    """The mean output of every video, in the order of their numbers.

    Attributes:
      outputs: [videos d] float32.
      labels: [videos …] by name; without those that the data does not have.
      index: the videos' numbers in their source.
    """

    outputs: np.ndarray
    labels: Mapping[str, np.ndarray]
    index: np.ndarray

    def label(self, name: str) -> np.ndarray:
        """The labels of that name. Raises ValueError: there are none."""
        return labelled(self.labels, name)[name]


def labelled(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """`data`, a batch or the shapes of one, where it has labels of that name. Raises ValueError: it has none."""
    if name not in data:
        raise ValueError(f"the data has no {name!r}: set labels=True on its loader, or name it there")
    return data


def per_video(
    compiled: Callable[[Params, Batch], jax.Array],
    params: Params,
    batches: Iterable[Batch],
    labels: Sequence[str] = ("label",),
) -> Found:
    """`compiled`'s rows, averaged over the clips of each video.

    Rows that only fill up a batch, and those of broken videos, are left out; a video whose clips
    come in several batches is still one.

    Args:
      compiled: (params, batch) -> [b d], of `Programs`.
      labels: the keys of the batch that hold labels; those that it lacks are passed over.

    Raises:
      ValueError: there is no video.
    """
    sums: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    told: dict[str, dict[int, np.ndarray]] = {}
    for rows, index, known in _rows(compiled, params, batches, labels):
        for i, number in enumerate(index.tolist()):
            sums[number] = sums[number] + rows[i] if number in sums else rows[i]
            counts[number] = counts.get(number, 0) + 1
            for name, values in known.items():
                told.setdefault(name, {})[number] = values[i]
    if not sums:
        raise ValueError("there is nothing to evaluate: the data has no video that can be read")
    order = sorted(sums)
    outputs = np.stack([sums[number] / counts[number] for number in order]).astype(np.float32)
    stacked = {name: np.stack([values[number] for number in order]) for name, values in told.items()}
    return Found(outputs, stacked, np.asarray(order))


def embed(
    method: Method,
    params: Params,
    batches: Iterable[Batch],
    programs: Programs,
    *,
    layer: int | None,
    label: str,
    of: str = "videos",
) -> tuple[np.ndarray, np.ndarray]:
    """The pooled features of every video [videos d], and their classes [videos].

    Args:
      of: which videos they are, for messages.

    Raises:
      ValueError: the data has no labels of that name, not one class a video, or features are not finite.
    """
    compiled = programs((method.features, layer, True), lambda p, b: method.features(p, b, layer=layer, pool=True))
    found = per_video(compiled, params, batches, (label,))
    truth = found.label(label)
    single(truth, found.index, label, of)
    finite(found.outputs, found.index, "the features", of)
    return found.outputs, truth


def embed_both(
    method: Method,
    params: Params,
    batches: Iterable[Batch],
    train: Iterable[Batch],
    about: About | None,
    *,
    layer: int | None,
    label: str,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """`embed` of the training videos and of those that are asked."""
    programs = (about or About()).programs
    known = embed(method, params, train, programs, layer=layer, label=label, of="training videos")
    return known, embed(method, params, batches, programs, layer=layer, label=label)


def unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _rows(compiled: Any, params: Params, batches: Iterable[Batch], labels: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Outputs (float64), numbers and labels of each batch's valid rows."""
    for batch in batches:
        told = {"outputs": compiled(params, batch), "index": batch["index"], "valid": batch["valid"]}
        known = [name for name in dict.fromkeys(labels) if name in batch]
        told = {name: whole(array) for name, array in (told | {f"label {n}": batch[n] for n in known}).items()}
        valid = np.asarray(told["valid"], bool)
        found = {name: told[f"label {name}"][valid] for name in known}
        yield told["outputs"][valid].astype(np.float64), told["index"][valid], found


def whole(array: Any) -> np.ndarray:
    """A global array on every host."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)
