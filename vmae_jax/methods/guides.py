"""Guides: frozen networks that annotate a batch for masks and targets (optical flow, CLIP, a teacher)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Array

from vmae_jax.types import Batch, Params

__all__ = ["Guide"]


class Guide(NamedTuple):
    """A frozen network and what it adds to a batch.

    Attributes:
      init: (key, batch) -> initial parameters, which `init_from` replaces.
      annotate: (parameters, batch) -> the arrays that it adds, by name, with one row per clip.
      inputs: the streams that it reads besides those of the model.
      gives: the names of the arrays that it adds, so that masks and targets need no stream of the loader for them.
    """

    init: Callable[[Array, Batch], Params]
    annotate: Callable[[Params, Batch], Mapping[str, Any]]
    inputs: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
