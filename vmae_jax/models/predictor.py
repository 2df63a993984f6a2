"""The predictor of V-JEPA 2.1, which predicts features of several levels at hidden and at visible tokens."""

import flax.linen as nn
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

from vmae_jax.models.decoder import Decoder
from vmae_jax.models.functions import gelu
from vmae_jax.models.layers import Dense, LayerNorm
from vmae_jax.models.parameters import declare
from vmae_jax.models.stack import Stack
from vmae_jax.scopes import part, tower
from vmae_jax.types import MaskPlan

__all__ = ["DensePredictor"]


class DensePredictor(Decoder):
    """A decoder that predicts the visible tokens as well, from the levels of an encoder side by side.

    Its heads are "features", of the hidden tokens, and "context", of the visible ones. A learned vector that all tokens
    share is their modality.

    Attributes:
      inputs: the width of the encoder, to which its levels are reduced first.
    """

    inputs: int = 0

    @nn.compact
    @tower("decoder")
    def __call__(
        self, encoded: Float[Array, "b n d"], plan: MaskPlan, mask: int = 0
    ) -> dict[str, Float[Array, "b k p"]]:
        """Return the float32 predictions "features" at `plan.decode`, and "context" at `plan.visible`."""
        options = {"initial": self.initial, "dtype": self.dtype}
        with part("project"):
            fused = gelu(Dense(self.inputs, ("embed", None), **options, name="fuse")(encoded[:, self.prefix :]))
            given = self.projection()(fused)
        x = self.tokens(given, plan, mask)
        init = declare(initializers.normal(1e-6), None, decay=False)
        x = x + jnp.asarray(self.param("modality", init, (self.width,))).astype(self.dtype)
        stack = Stack(**self.blocks, first_layer=None, dtype=self.dtype, name="blocks")
        x = LayerNorm(self.dtype, name="norm")(stack(x, valid=self._valid(plan), rotation=self._rotation(plan)))
        places = {"features": x[:, -plan.decode.shape[1] :], "context": x[:, self.prefix :][:, : plan.visible.shape[1]]}
        with part("head"):
            return {
                name: Dense(size, ("embed", "cube"), **options, name=f"head_{name}")(places[name]).astype(jnp.float32)
                for name, size in self.heads.items()
            }
