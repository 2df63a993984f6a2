"""Dense features of single pictures of any size, from an encoder of pictures or of clips."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from vmae_jax.models.classifier import everything
from vmae_jax.models.encoder import Encoder
from vmae_jax.models.positions import for_grid
from vmae_jax.models.variants import Model
from vmae_jax.patches import grid_of, patchify
from vmae_jax.types import Grid

__all__ = ["frame_features", "frame_tokens"]


def frame_features(
    model: Model, encoder: Encoder, params: Any, frames: UInt8[Array, "b h w c"], *, layer: int | None = None
) -> Float[Array, "b y x d"]:
    """Return the tokens of each picture after the encoder, in place; arguments and errors as in `frame_tokens`."""
    tokens, grid = frame_tokens(model, encoder, params, frames, layer=layer)
    return tokens[:, encoder.prefix :, -encoder.width :].reshape(len(frames), grid.h, grid.w, -1)


def frame_tokens(
    model: Model, encoder: Encoder, params: Any, frames: UInt8[Array, "b h w c"], *, layer: int | None = None
) -> tuple[Float[Array, "b n d"], Grid]:
    """Return the encoded prefix and tokens of each picture, float32, and their grid.

    An encoder of clips sees every picture as the shortest clip there is: one tubelet, all of whose frames are that
    picture. Fixed positions are computed for the pictures' grid, learned ones are interpolated.

    Args:
      model: of the encoder.
      encoder: the model's, or a copy of it.
      params: of the encoder.
      frames: of any size that the patch divides.
      layer: the tokens after this many blocks, without the final norm; None is the end.

    Raises:
      ValueError: if the patch does not divide the pictures, they have another number of channels, or the encoder is not
        a plain one (Hiera).
    """
    if not isinstance(encoder, Encoder):
        raise ValueError(f"features of single pictures: {type(encoder).__name__} has none; use those of clips")
    if frames.shape[-1] != model.channels:
        raise ValueError(f"the model takes pictures of {model.channels} channels, not {frames.shape[-1]}")
    clips = jnp.repeat(jnp.asarray(frames)[:, None], model.patch.t, axis=1)
    grid = grid_of(clips.shape, model.patch)
    params = for_grid(params, model.grid, grid)
    encoder = encoder.clone(grid=grid)
    if layer is not None:
        encoder, params = encoder.shallow(params, layer)
    cubes = model.normalize(patchify(clips, model.patch))
    tokens = encoder.apply({"params": params}, cubes, everything(*cubes.shape[:2]))
    return jnp.asarray(tokens, jnp.float32), grid
