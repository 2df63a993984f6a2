"""A classifier over all tokens of a clip: encode, pool (the mean and a norm), drop out, project."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

from vmae_jax.models.encoder import Encoder
from vmae_jax.models.layers import Dense, LayerNorm
from vmae_jax.models.parameters import declare
from vmae_jax.models.pooling import Pool
from vmae_jax.scopes import part, tower
from vmae_jax.types import MaskPlan

__all__ = ["Classifier", "LinearClassifier", "Statistics", "everything"]


def everything(batch: int, n: int) -> MaskPlan:
    """Return the plan of a network that sees every token and predicts none."""
    visible = jnp.broadcast_to(jnp.arange(n), (batch, n))
    return MaskPlan(visible=visible, decode=jnp.zeros((batch, 0), jnp.int32), weight=jnp.zeros((batch, 0)))


class Classifier(nn.Module):
    """The official fine-tuning model: mean pool, `fc_norm`, dropout, linear head.

    Attributes:
      encoder: the encoder; without a final norm if the tokens are averaged, because the norm follows the mean.
      classes: size of the head.
      dropout: rate before the head.
      init_scale: factor on the head's first kernel (the official recipes use 0.001).
      pool: builds the module that pools the tokens (`models.pooling`); by default the mean and `fc_norm`.
    """

    encoder: Encoder
    classes: int
    dropout: float = 0.0
    init_scale: float = 0.001
    dtype: Any = jnp.float32
    pool: Pool | None = None

    def setup(self):
        if self.pool is None:
            self.fc_norm = LayerNorm(jnp.float32)
        else:
            self.pooled = self.pool(self.encoder.width)
        init = initializers.truncated_normal(0.02 * self.init_scale)
        self.head = Dense(self.classes, ("embed", "classes"), kernel_init=init)

    def __call__(self, cubes: Float[Array, "b n p"], keys: Array | None = None) -> Float[Array, "b k"]:
        """Return float32 logits. Keys, one per example, switch on drop path and dropout."""
        return self.outputs(self.features(cubes, keys), keys)

    def outputs(self, x: Float[Array, "b d"], keys: Array | None = None) -> Float[Array, "b k"]:
        """Return float32 logits, given features."""
        if keys is not None and self.dropout:
            kept = (
                jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 0), x.shape[1:]))(keys) >= self.dropout
            )
            x = jnp.where(kept, x / (1.0 - self.dropout), 0.0)
        with tower("classifier"), part("head"):
            return self.head(x)

    def features(self, cubes: Float[Array, "b n p"], keys: Array | None = None) -> Float[Array, "b d"]:
        """Return the pooled tokens of the clip (their mean after `fc_norm`) in float32."""
        tokens = self.encoder(cubes, everything(*cubes.shape[:2]), keys).astype(jnp.float32)
        tokens = tokens[:, self.encoder.prefix :]
        return self.fc_norm(tokens.mean(axis=1)) if self.pool is None else self.pooled(tokens)


class Statistics(nn.Module):
    """Batch norm without scale and shift, by the mean and variance among its parameters, which no gradient reaches."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b d"]:
        init = functools.partial(declare, decay=False)
        mean = self.param("mean", init(initializers.zeros, "embed"), (x.shape[-1],))
        variance = self.param("variance", init(initializers.ones, "embed"), (x.shape[-1],))
        mean, variance = jax.lax.stop_gradient((jnp.asarray(mean), jnp.asarray(variance)))
        return (x - mean) * jax.lax.rsqrt(variance + self.epsilon)


class LinearClassifier(Classifier):
    """A linear layer on the class token after batch norm: the linear probe of MAE."""

    def setup(self):
        self.norm = Statistics()
        init = initializers.truncated_normal(0.02 * self.init_scale)
        self.head = Dense(self.classes, ("embed", "classes"), kernel_init=init)

    def token(self, cubes: Float[Array, "b n p"]) -> Float[Array, "b d"]:
        """Return the class token after the encoder's last norm in float32, which no gradient passes."""
        return jax.lax.stop_gradient(self.encoder(cubes, everything(*cubes.shape[:2])).astype(jnp.float32)[:, 0])

    def features(self, cubes: Float[Array, "b n p"], keys: Array | None = None) -> Float[Array, "b d"]:
        """Return the normalised class token; keys change nothing, since the encoder is not trained."""
        del keys
        return self.norm(self.token(cubes))

    def scores(self, token: Float[Array, "b d"]) -> Float[Array, "b k"]:
        """Return float32 logits, given class tokens."""
        return self.outputs(self.norm(token))
