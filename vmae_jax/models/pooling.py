"""Pooling of a clip's tokens to one vector by attention. The plain mean is part of the classifier."""

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
    """A learned query attends to all tokens, followed by an MLP, both with residual connections.

    The form of V-JEPA's attentive probe (Bardes et al. 2024): x = query + attention(query, norm(tokens)),
    then x + mlp(norm(x)). It is float32 throughout: it is small, and often the only part that is trained.

    Attributes:
      width: the width of the tokens.
      heads: the number of heads, which must divide the width.
      mlp_ratio: the width of the MLP relative to that of the tokens.
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
      heads: the number of heads; by default one per 64 channels, as in the published encoders.
      mlp_ratio: the width of the MLP relative to that of the tokens.

    Raises:
      ValueError: if the heads do not divide the width (when the pooler is built).
    """
    if (heads is not None and heads < 1) or mlp_ratio <= 0:
        raise ValueError(f"heads must be at least 1 and mlp_ratio above 0, got heads={heads}, mlp_ratio={mlp_ratio}")

    def make(width: int) -> nn.Module:
        count = heads or max(1, width // 64)
        if width % count:
            raise ValueError(f"attentive pooling: {count} heads do not divide a width of {width}")
        return AttentivePool(width, count, mlp_ratio)

    return make
