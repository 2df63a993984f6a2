"""A network that is used as it is, such as CLIP: for features, and as the teacher or guide of another method."""

import dataclasses
from typing import Any, NoReturn

import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.methods.encoding import EncoderFeatures, encoded
from vmae_jax.models.classifier import everything
from vmae_jax.models.layers import Dense
from vmae_jax.models.text import TextModel
from vmae_jax.models.variants import Model
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError
from vmae_jax.types import Batch, Context, Method, Params, stream

__all__ = ["Pretrained", "build", "projected", "projector"]


@dataclasses.dataclass(frozen=True)
class Pretrained(EncoderFeatures):
    """The functions of a network that is not trained, which `build` returns as a `Method`."""

    model: Model
    projection: int | None
    text: TextModel | None

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, "encoder" and perhaps "projection" and "text", which an import replaces."""
        cubes = jnp.zeros((batch["video"].shape[0], self.model.grid.size, self.model.cube), jnp.float32)
        weights = self.model.encoder.init(stream(key, "encoder"), cubes, everything(*cubes.shape[:2]))["params"]
        params = {"encoder": weights}
        if self.projection is not None:
            token = jnp.zeros((1, self.model.encoder.width))
            params["projection"] = projector(self.projection).init(stream(key, "projection"), token)["params"]
        if self.text is not None:
            params["text"] = self.text.init(stream(key, "text"))
        return params, None

    def loss(self, params: Params, batch: Batch, context: Context) -> NoReturn:
        """Raise ConfigError: there is nothing to train."""
        del params, batch, context
        raise ConfigError("methods.pretrained is for networks that are used as they are; it has no loss to train")

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """Return the features of whole clips: [b d], or the tokens [b n d] without pooling.

        With a projection, the pooled features are those of the class token, projected. See `EncoderFeatures.features`.
        """
        if self.projection is None or layer is not None or not pool:
            return super().features(params, batch, layer=layer, pool=pool)
        whole = everything(batch["video"].shape[0], self.model.grid.size)
        tokens = encoded(self.model, params["encoder"], batch, whole, train=False)
        return jnp.asarray(projected(params["projection"], tokens[:, 0]), jnp.float32)

    def method(self) -> Method:
        """Return these functions as a method."""
        return Method(init=self.init, loss=self.loss, features=self.features, frame_features=self.frame_features)


def projector(size: int, dtype: Any = jnp.float32) -> Dense:
    """Return the linear layer, without a bias, from the width of an encoder to that of its embeddings."""
    return Dense(size, ("embed", None), use_bias=False, dtype=dtype)


def projected(weights: Params, tokens: Any) -> Array:
    """Return normalised tokens after a projection."""
    kernel = jnp.asarray(weights["kernel"])
    return jnp.asarray(projector(kernel.shape[1], tokens.dtype).apply({"params": weights}, tokens))


@register("method", model="model", text="text_model", smoke=lambda given: {"projection": given["projection"] and 16})
def build(model: Model, projection: int | None = None, text: TextModel | None = None) -> Method:
    """Return a network that is used as it is: it has features, and cannot be trained.

    Args:
      model: its encoder is used.
      projection: the size of the embedding to which the class token is projected (CLIP).
      text: the text tower that belongs to it; no feature is of it, but other methods take its weights.

    Raises:
      ValueError: if there is a projection and no class token.
    """
    if projection is not None and (projection < 1 or not model.encoder.prefix):
        raise ValueError(f"projection={projection}: a positive size, of a model with a class token (prefix=1)")
    return Pretrained(model, projection, text).method()
