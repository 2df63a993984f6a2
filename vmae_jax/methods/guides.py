"""Guides: frozen networks that annotate a batch for masks and targets (optical flow, CLIP, a teacher)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Array

from vmae_jax.types import Batch, Params

__all__ = ["Guide"]


class Guide(NamedTuple):
    """A frozen network and what it adds to a batch.

    Attributes:
      init: (key, batch) -> its parameters, which `init_from` fills from a file.
      annotate: (parameters, batch) -> the arrays it adds, by name, one row a clip.
    """

    init: Callable[[Array, Batch], Params]
    annotate: Callable[[Params, Batch], Mapping[str, Any]]
