"""What methods with one encoder of clips have in common: its tokens, and the features that it gives."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vmae_jax.models.classifier import everything
from vmae_jax.models.frames import frame_features
from vmae_jax.models.variants import Model
from vmae_jax.patches import gather_cubes, patchify
from vmae_jax.types import Batch, MaskPlan, Params, row_keys, stream

__all__ = ["EncoderFeatures", "encoded", "part_keys"]


def encoded(model: Model, weights: Params, batch: Batch, masks: MaskPlan, *, train: bool) -> Any:
    """Return the encoded prefix and visible tokens of a batch. Only visible cubes are converted to floating point.

    Args:
      model: its encoder is run.
      weights: of the encoder.
      batch: of clips.
      masks: what is visible.
      train: whether drop path is on.
    """
    with jax.named_scope("cubes"):
        cubes = model.normalize(gather_cubes(batch["video"], masks.visible, model.patch))
    keys = stream(row_keys(batch["seed"]), "drop_path") if train else None
    return model.encoder.apply({"params": weights}, cubes, masks, keys)


def part_keys(keys: Key[Array, "b"], count: int) -> Key[Array, " parts"]:
    """Return a key for each of `count` parts (views, frames) of each row, those of a row side by side."""
    return jax.vmap(lambda key: jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.arange(count)))(keys).reshape(-1)


class EncoderFeatures:
    """`Method.features` and `Method.frame_features` of a method whose encoder is that of `model`."""

    model: Model

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """Return the encoder's features of whole clips: [b d], or [b n d] without pooling.

        Of an encoder of levels they are the last one's.

        Args:
          layer: take the tokens after this many blocks, without the final norm; None: the encoder's output.
        """
        self.model.check(batch["video"].shape)
        cubes = self.model.normalize(patchify(batch["video"], self.model.patch))
        encoder, weights = self.model.encoder, params["encoder"]
        if layer is not None:
            encoder, weights = encoder.shallow(weights, layer)
        tokens = jnp.asarray(encoder.apply({"params": weights}, cubes, everything(*cubes.shape[:2])), jnp.float32)
        tokens = tokens[..., -encoder.width :]
        return self.summary(tokens, encoder.prefix) if pool else tokens[:, encoder.prefix :]

    def summary(self, tokens: Float[Array, "b n d"], prefix: int) -> Float[Array, "b d"]:
        """Return the features of whole clips, of all tokens with the prefix: their mean without it."""
        return tokens[:, prefix:].mean(axis=1)

    def frame_features(self, params: Params, frames: Array, *, layer: int | None = None) -> Array:
        """Return the encoder's tokens of single pictures (`models.frames`)."""
        return frame_features(self.model, self.model.encoder, params["encoder"], frames, layer=layer)
