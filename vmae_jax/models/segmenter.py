"""A classifier of every frame of a clip: encode, average over each time slot, norm, project, repeat for frames."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

from vmae_jax.models.classifier import everything
from vmae_jax.models.encoder import Encoder
from vmae_jax.models.layers import Dense, LayerNorm
from vmae_jax.scopes import part, tower

__all__ = ["Segmenter"]


class Segmenter(nn.Module):
    """Class scores along time.

    Attributes:
      encoder: without a final norm, because a norm follows the mean of each slot.
      classes: the number of scores of a frame.
      tubelet: frames of a time slot, which have the same scores.
      init_scale: factor on the head's first kernel, whose deviation is 0.02.
    """

    encoder: Encoder
    classes: int
    tubelet: int
    init_scale: float = 0.001

    def setup(self):
        self.fc_norm = LayerNorm(jnp.float32)
        init = initializers.truncated_normal(0.02 * self.init_scale)
        self.head = Dense(self.classes, ("embed", "classes"), kernel_init=init)

    def __call__(self, cubes: Float[Array, "b n p"], keys: Array | None = None) -> Float[Array, "b t k"]:
        """Return float32 logits of each frame. Keys, one per example, switch on drop path."""
        slots = self.slots(cubes, keys)
        with tower("classifier"), part("head"):
            return jnp.repeat(self.head(slots), self.tubelet, axis=1)

    def slots(self, cubes: Float[Array, "b n p"], keys: Array | None = None) -> Float[Array, "b s d"]:
        """Return the normed mean of the tokens of each time slot in float32."""
        encoded: Any = self.encoder(cubes, everything(*cubes.shape[:2]), keys)
        tokens = encoded.astype(jnp.float32)[:, self.encoder.prefix :]
        grid = self.encoder.grid
        return self.fc_norm(tokens.reshape(tokens.shape[0], grid.t, grid.slot, -1).mean(axis=2))
