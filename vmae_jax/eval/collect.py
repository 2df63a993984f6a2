"""What the evaluators share: outputs gathered per video, exactly once each, on every host alike."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vmae_jax.types import Batch, Method, Params

__all__ = ["Found", "Results", "embed", "per_video", "unit"]


class Results(dict[str, float]):
    """Numbers by name, and tables (file name -> rows, the first of which are the columns' names)."""

    def __init__(self, numbers: dict[str, float], tables: dict[str, list[list[Any]]] | None = None):
        super().__init__(numbers)
        self.tables = tables or {}


@dataclasses.dataclass(frozen=True)
class Found:
    """The mean output of every video, in the order of their numbers.

    Attributes:
      outputs: [videos d] float32.
      label: [videos …], or None where the data has none.
      index: the videos' numbers in their source.
    """

    outputs: np.ndarray
    label: np.ndarray | None
    index: np.ndarray


def per_video(
    function: Callable[[Params, Batch], jax.Array], params: Params, batches: Iterable[Batch], label: str = "label"
) -> Found:
    """`function`'s rows, averaged over the clips of each video.

    Rows that only fill up a batch, and those of broken videos, are left out; a video whose clips
    come in several batches is still one.

    Args:
      function: (params, batch) -> [b d]; it is compiled here.
      label: the key of the batch that holds the labels.

    Raises:
      ValueError: there is no video.
    """
    compiled = jax.jit(function)
    sums: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    labels: dict[int, np.ndarray] = {}
    for rows, index, found in _rows(compiled, params, batches, label):
        for i, number in enumerate(index.tolist()):
            sums[number] = sums[number] + rows[i] if number in sums else rows[i]
            counts[number] = counts.get(number, 0) + 1
            if found is not None:
                labels[number] = found[i]
    if not sums:
        raise ValueError("there is nothing to evaluate: the data has no video that can be read")
    order = sorted(sums)
    outputs = np.stack([sums[number] / counts[number] for number in order]).astype(np.float32)
    known = np.stack([labels[number] for number in order]) if labels else None
    return Found(outputs, known, np.asarray(order))


def embed(
    method: Method, params: Params, batches: Iterable[Batch], *, layer: int | None, label: str = "label"
) -> Found:
    """The pooled features of every video.

    Raises:
      ValueError: the data has no labels.
    """
    found = per_video(lambda p, b: method.features(p, b, layer=layer, pool=True), params, batches, label)
    if found.label is None:
        raise ValueError(f"the data has no {label!r}: set labels=True on its loader")
    return found


def unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _rows(compiled: Any, params: Params, batches: Iterable[Batch], label: str) -> Iterator[tuple[Any, ...]]:
    """Outputs (float64), numbers and labels of each batch's valid rows."""
    for batch in batches:
        told = {"outputs": compiled(params, batch), "index": batch["index"], "valid": batch["valid"]}
        if label in batch:
            told["label"] = batch[label]
        told = {name: _whole(array) for name, array in told.items()}
        valid = np.asarray(told["valid"], bool)
        found = told["label"][valid] if label in told else None
        yield told["outputs"][valid].astype(np.float64), told["index"][valid], found


def _whole(array: Any) -> np.ndarray:
    """A global array on every host."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)
