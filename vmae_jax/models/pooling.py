"""Pooling of a clip's tokens to one vector by attention. The plain mean is part of the classifier."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

from vmae_jax.models.attention import attend
from vmae_jax.models.initial import divided_by_depth
from vmae_jax.models.layers import Dense, LayerNorm, Mlp
from vmae_jax.models.parameters import declare
from vmae_jax.models.stack import Stack
from vmae_jax.models.styles import STYLES
from vmae_jax.registry import register
from vmae_jax.scopes import tower

__all__ = ["AttentivePool", "Pool", "attentive", "deep_attentive"]

Pool = Callable[[int], nn.Module]  # width -> module, tokens [b n d] -> [b d]


class AttentivePool(nn.Module):
    """A learned query attends to all tokens, followed by an MLP, both with residual connections.

    The form of V-JEPA's attentive probe (Bardes et al. 2024): x = query + attention(query, norm(tokens)),
    then x + mlp(norm(x)). It is float32 throughout: it is small, and often the only part that is trained.

    Attributes:
      width: the width of the tokens.
      heads: the number of heads, which must divide the width.
      mlp_ratio: the width of the MLP relative to that of the tokens.
      blocks: self-attention blocks that the tokens pass first.
      project: whether what the query attends to is projected.
      initial: a key of `models.initial.SCHEMES`; "vjepa" also divides the last matrix of each branch by its depth.
      style: a key of `models.styles.STYLES`.
    """

    width: int
    heads: int
    mlp_ratio: float = 4.0
    blocks: int = 0
    project: bool = True
    initial: str = "videomae"
    style: str = "vit"

    @nn.compact
    @tower("pool")
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        batch, hidden = tokens.shape[0], int(self.width * self.mlp_ratio)
        if self.blocks:
            forms: Any = {"initial": self.initial, "biases": "qkv", "style": self.style}
            tokens = Stack(self.blocks, self.heads, hidden, **forms, first_layer=None, name="blocks")(tokens)
        dense = functools.partial(Dense, self.width, initial=self.initial)
        norm = functools.partial(LayerNorm, epsilon=STYLES[self.style].epsilon)
        init = declare(initializers.truncated_normal(0.02), "embed", decay=False)
        query = jnp.asarray(self.param("query", init, (self.width,)))
        seen = norm(name="norm1")(tokens)
        q = dense(("embed", None), name="q")(jnp.broadcast_to(query, (batch, 1, self.width)))
        k, v = (dense(("embed", None), name=name)(seen) for name in ("k", "v"))
        x = attend(q, k, v, heads=self.heads)
        x = query + (dense((None, "embed"), name="proj")(x) if self.project else x)
        x = x + Mlp(hidden, self.initial, self.style, name="mlp")(norm(name="norm2")(x))
        if self.is_initializing() and self.initial == "vjepa":
            self._scale_down()
        return x[:, 0]

    def _scale_down(self) -> None:
        """Divide the last matrix of each branch of block k by √(2k), as V-JEPA 2 begins; the MLP is of the last k."""
        if self.blocks:
            stacked = divided_by_depth({"blocks": self.get_variable("params", "blocks")})
            self.put_variable("params", "blocks", stacked["blocks"])
        mlp = self.get_variable("params", "mlp")
        factor = 1 / math.sqrt(2 * max(self.blocks, 1))
        last = {**mlp["fc2"], "kernel": jax.tree.map(lambda kernel: kernel * factor, mlp["fc2"]["kernel"])}
        self.put_variable("params", "mlp", {**mlp, "fc2": last})


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
    return functools.partial(_pool, heads=heads, mlp_ratio=mlp_ratio)


@register("pool")
def deep_attentive(depth: int = 4, heads: int | None = 16, mlp_ratio: float = 4.0) -> Pool:
    """Blocks of self-attention and then cross-attention from one learned query: V-JEPA 2's probe.

    As its code (`src/models/attentive_pooler.py`): norms with an epsilon of 1e-5, no projection after the
    cross-attention, and its initial values.

    Args:
      depth: blocks, the one with the query included.
      heads: the number of heads; None is one per 64 channels.
      mlp_ratio: the width of the MLPs relative to that of the tokens.

    Raises:
      ValueError: if a number is out of range, or the heads do not divide the width (when the pooler is built).
    """
    if depth < 1 or (heads is not None and heads < 1) or mlp_ratio <= 0:
        raise ValueError(
            f"depth and heads must be at least 1 and mlp_ratio above 0, got depth={depth}, heads={heads}, "
            f"mlp_ratio={mlp_ratio}"
        )
    form = {"blocks": depth - 1, "project": False, "initial": "vjepa", "style": "vjepa_probe"}
    return functools.partial(_pool, heads=heads, mlp_ratio=mlp_ratio, **form)


def _pool(width: int, *, heads: int | None, mlp_ratio: float, **form: Any) -> AttentivePool:
    count = heads or max(1, width // 64)
    if width % count:
        raise ValueError(f"attentive pooling: {count} heads do not divide a width of {width}")
    return AttentivePool(width, count, mlp_ratio, **form)
