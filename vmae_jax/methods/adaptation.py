"""How a network goes on learning from videos without labels while it predicts them (test-time training)."""

from collections.abc import Callable
from typing import NamedTuple

from vmae_jax.types import Batch, Context, Loss, Params

__all__ = ["Adaptation"]


class Adaptation(NamedTuple):
    """`Method.adaptation`.

    Attributes:
      loss: (params, batch, context) -> Loss, of clips without labels.
      trains: first names of the paths of the parameters that it trains; all others stay as they are.
      inputs: the streams of the batch that it reads.
    """

    loss: Callable[[Params, Batch, Context], Loss]
    trains: tuple[str, ...]
    inputs: tuple[str, ...] = ("video",)
