"""The gated core of RVM, which folds the tokens of one frame after the other into a state."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

from vmae_jax.models.cross import CrossStack
from vmae_jax.models.functions import layer_norm
from vmae_jax.models.layers import Dense, LayerNorm
from vmae_jax.models.parameters import declare
from vmae_jax.scopes import part, tower

__all__ = ["GatedCore"]

EPSILON = 1e-4  # of the norm of the state [code]


class GatedCore(nn.Module):
    """One step of a gated recurrent unit whose candidate comes from cross-attention to the reset state.

        u = σ(W_u e + V_u s),  r = σ(W_r e + V_r s),  h = blocks(e; r ⊙ norm(s)),  s' = (1 - u) ⊙ s + u ⊙ h

    The four matrices have no bias, the norm of the state has a scale and no shift. Gates and state are float32.

    Attributes:
      blocks: arguments of `models.cross.CrossStack`.
      dtype: of the matrix products.

    Source: Zoran et al., "Recurrent Video Masked Autoencoders", and their code.
    """

    blocks: dict[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    @tower("core")
    def __call__(
        self, state: Float[Array, "b n d"], tokens: Float[Array, "b n d"]
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b n d"]]:
        """Return the next state and the update gate, float32.

        Args:
          state: of the frames before; zeros at the first.
          tokens: those of the frame, its prefix included.
        """
        with part("gates"):
            update, reset = (self._gate(name, state, tokens) for name in ("update", "reset"))
            init = declare(initializers.ones, "embed", decay=False)
            scale = jnp.asarray(self.param("state_scale", init, (state.shape[-1],)))
            normed: Any = layer_norm(state, scale, jnp.zeros_like(scale), EPSILON)
            seen = reset * normed
        found = CrossStack(**self.blocks, dtype=self.dtype, name="blocks")(
            tokens.astype(self.dtype), seen.astype(self.dtype)
        )
        found: Any = LayerNorm(jnp.float32, name="norm")(found)
        return (1 - update) * state + update * found, update

    def _gate(self, name: str, state: Array, tokens: Array) -> Array:
        options = {"use_bias": False, "initial": self.blocks["initial"], "dtype": self.dtype}
        parts = (("input", tokens), ("state", state))
        width = state.shape[-1]
        both = [Dense(width, ("embed", None), **options, name=f"{name}_{of}")(x) for of, x in parts]
        return jax.nn.sigmoid((both[0] + both[1]).astype(jnp.float32))
