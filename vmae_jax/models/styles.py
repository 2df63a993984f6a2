"""Where the blocks of published encoders differ: activation, norms, patch embedding."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array

from vmae_jax.models.functions import gelu, quick_gelu, tanh_gelu

__all__ = ["STYLES", "Style"]


class Style(NamedTuple):
    """The form of an encoder.

    Attributes:
      activation: between the two layers of an MLP.
      epsilon: of the norms.
      first_norm: whether a norm comes before the first block.
      embed_bias: whether the patch embedding has a bias.
    """

    activation: Callable[[Array], Array] = gelu
    epsilon: float = 1e-6
    first_norm: bool = False
    embed_bias: bool = True


STYLES = {
    "vit": Style(),
    "clip": Style(quick_gelu, 1e-5, first_norm=True, embed_bias=False),
    "tanh": Style(tanh_gelu),
    "vjepa_probe": Style(epsilon=1e-5),
}
