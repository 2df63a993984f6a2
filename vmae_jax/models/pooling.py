"""How the tokens of a clip become one vector: an attentive pooler; the plain mean is the classifier's own."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

from vmae_jax.models.attention import attend
from vmae_jax.models.layers import Dense, LayerNorm, Mlp
from vmae_jax.models.parameters import declare
from vmae_jax.registry import register
from vmae_jax.scopes import tower

__all__ = ["AttentivePool", "Pool", "attentive"]

Pool = Callable[[int], nn.Module]  # width -> module, tokens [b n d] -> [b d]


class AttentivePool(nn.Module):
    """One learned query attends to all tokens; an MLP behind it, both with residuals.

    The form of V-JEPA's attentive probe (Bardes et al. 2024): x = query + attention(query, norm(tokens)),
    then x + mlp(norm(x)). Float32 throughout: it is small, and often all that is trained.

    Attributes:
      width: of the tokens.
      heads: must divide the width.
      mlp_ratio: the MLP's width over the tokens'.
    """

    width: int
    heads: int
    mlp_ratio: float = 4.0

    @nn.compact
    @tower("pool")
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        batch = tokens.shape[0]
        init = declare(initializers.truncated_normal(0.02), "embed", decay=False)
        query = jnp.asarray(self.param("query", init, (self.width,)))
        seen = LayerNorm(name="norm1")(tokens)
        q = Dense(self.width, ("embed", None), name="q")(jnp.broadcast_to(query, (batch, 1, self.width)))
        k, v = (Dense(self.width, ("embed", None), name=name)(seen) for name in ("k", "v"))
        x = query + Dense(self.width, (None, "embed"), name="proj")(attend(q, k, v, heads=self.heads))
        x = x + Mlp(int(self.width * self.mlp_ratio), name="mlp")(LayerNorm(name="norm2")(x))
        return x[:, 0]


@register("pool")
def attentive(heads: int | None = None, mlp_ratio: float = 4.0) -> Pool:
    """Cross-attention from one learned query, for `methods.classify.build(pool=…)` and `eval.probe`.

    Args:
      heads: by default one for every 64 channels, as the published encoders have.
      mlp_ratio: the MLP's width over the tokens'.

    Raises:
      ValueError: a width that the heads do not divide, when it is built.
    """
    if (heads is not None and heads < 1) or mlp_ratio <= 0:
        raise ValueError(f"heads={heads}, mlp_ratio={mlp_ratio}: at least 1, and above 0")

    def make(width: int) -> nn.Module:
        count = heads or max(1, width // 64)
        if width % count:
            raise ValueError(f"attentive pooling: {count} heads do not divide a width of {width}")
        return AttentivePool(width, count, mlp_ratio)

    return make
