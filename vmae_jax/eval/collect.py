"""Common parts of the evaluators: the outputs of each video, gathered exactly once on every host."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vmae_jax.eval.scores import finite, single
from vmae_jax.types import Batch, Carried, Method, Params

__all__ = [
    "About",
    "Found",
    "Programs",
    "Results",
    "embed",
    "embed_both",
    "labelled",
    "per_clip",
    "per_video",
    "unit",
    "whole",
]


class Results(dict[str, float]):
    """Metrics by name, with tables and files.

    Attributes:
      tables: file name -> rows, beginning with the names of the columns.
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
    """A cache of compiled functions, so that repeated evaluations compile once.

    Args:
      compiled: compiles a function for the devices that parameters and batches are on.
    """

    def __init__(self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = jax.jit):
        self._compiled = compiled
        self._known: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(
        self, key: tuple[Any, ...], function: Callable[..., Any], *, alone: bool = False
    ) -> Callable[..., Any]:
        """Return the compiled `function`, or the one compiled under the key before.

        Args:
          key: everything that the function depends on besides its arguments; first the method's own function.
          function: of parameters and a batch.
          alone: compile it for arrays of this process, on its first device.
        """
        if key not in self._known:
            self._known[key] = jax.jit(function) if alone else self._compiled(function)
        return self._known[key]


@dataclasses.dataclass(frozen=True)
class About:
    """Further information for evaluators with an argument `about`.

    Attributes:
      label_names: the class names of each label, in order, if it has names.
      name: returns the name of a video by its number; None if videos have no names.
      carried: returns what the state holds beside the parameters, which is read when called.
      programs: the cache of compiled functions.
      rows: the rows of a batch that an evaluator forms itself are a multiple of this: the devices share them.
      alive: to be called with the present place before each piece of work that is no batch, for the watchdog.
      averaged: whether the parameters are the exponential moving average of the trained ones.
    """

    label_names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    name: Callable[[int], str] | None = None
    carried: Callable[[], Carried] = Carried
    programs: Programs = dataclasses.field(default_factory=Programs)
    rows: int = 1
    alive: Callable[[str], None] = lambda where: None
    averaged: bool = False


@dataclasses.dataclass(frozen=True)
class Found:
    """The mean output of every video, in the order of their numbers.

    Attributes:
      outputs: [videos d] float32.
      labels: [videos …] by name, without those that the data lack.
      index: numbers of the videos in their source.
    """

    outputs: np.ndarray
    labels: Mapping[str, np.ndarray]
    index: np.ndarray

    def label(self, name: str) -> np.ndarray:
        """Return the labels of this name; raise ValueError if there are none."""
        return labelled(self.labels, name)[name]


def labelled(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return `data`, a batch or its shapes; raise ValueError if it has no labels of this name."""
    if name not in data:
        raise ValueError(f"the data has no {name!r}: set labels=True on its loader, or name it there")
    return data


def per_video(
    compiled: Callable[[Params, Batch], jax.Array],
    params: Params,
    batches: Iterable[Batch],
    labels: Sequence[str] = ("label",),
) -> Found:
    """Return the rows of `compiled`, averaged over the clips of each video.

    Rows that only pad a batch, and those of broken videos, are left out. The clips of a video may be in several
    batches.

    Args:
      compiled: (params, batch) -> [b d], of `Programs`.
      labels: keys of labels in the batch; missing ones are ignored.

    Raises:
      ValueError: if there is no video.
    """
    sums: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    gathered: dict[str, dict[int, np.ndarray]] = {}
    for rows, index, known in _rows(compiled, params, batches, labels):
        for i, number in enumerate(index.tolist()):
            sums[number] = sums[number] + rows[i] if number in sums else rows[i]
            counts[number] = counts.get(number, 0) + 1
            for name, values in known.items():
                gathered.setdefault(name, {})[number] = values[i]
    if not sums:
        raise ValueError("there is nothing to evaluate: none of the videos can be read")
    order = sorted(sums)
    outputs = np.stack([sums[number] / counts[number] for number in order]).astype(np.float32)
    stacked = {name: np.stack([values[number] for number in order]) for name, values in gathered.items()}
    return Found(outputs, stacked, np.asarray(order))


def per_clip(
    compiled: Callable[[Params, Batch], jax.Array],
    params: Params,
    batches: Iterable[Batch],
    most: int,
) -> Found:
    """Return the rows of `compiled` for the first videos, each of its clips by itself: `outputs` [videos clips d].

    Batches after those of the first `most` videos are not computed.

    Args:
      compiled: as in `per_video`.
      most: maximum number of videos.

    Raises:
      ValueError: if there is no video, or they have different numbers of clips.
    """
    clips: dict[int, list[np.ndarray]] = {}
    for rows, index, _ in _rows(compiled, params, batches, ()):
        for i, number in enumerate(index.tolist()):
            clips.setdefault(number, []).append(rows[i])
        if len(clips) > most:  # a source's videos come in order, so the first ones are complete
            break
    order = sorted(clips)[:most]
    if not order:
        raise ValueError("there is nothing to evaluate: none of the videos can be read")
    if len({len(clips[number]) for number in order}) > 1:
        raise ValueError("the videos have different numbers of clips")
    return Found(np.stack([np.stack(clips[number]) for number in order]).astype(np.float32), {}, np.asarray(order))


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
    """Return the pooled features of every video [videos d], and their classes [videos].

    Args:
      of: description of the videos, for messages.

    Raises:
      ValueError: if there are no labels of this name, not one class per video, or features are not finite.
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
    """Return `embed` of the training videos and of the queries."""
    programs = (about or About()).programs
    known = embed(method, params, train, programs, layer=layer, label=label, of="training videos")
    return known, embed(method, params, batches, programs, layer=layer, label=label)


def unit(features: np.ndarray) -> np.ndarray:
    """Return the rows, scaled to length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _rows(compiled: Any, params: Params, batches: Iterable[Batch], labels: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield outputs (float64), numbers and labels of the valid rows of each batch."""
    for batch in batches:
        gathered = {"outputs": compiled(params, batch), "index": batch["index"], "valid": batch["valid"]}
        known = [name for name in dict.fromkeys(labels) if name in batch]
        gathered = {name: whole(array) for name, array in (gathered | {f"label {n}": batch[n] for n in known}).items()}
        valid = np.asarray(gathered["valid"], bool)
        found = {name: gathered[f"label {name}"][valid] for name in known}
        yield gathered["outputs"][valid].astype(np.float64), gathered["index"][valid], found


def whole(array: Any) -> np.ndarray:
    """Return a global array on every host."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)
