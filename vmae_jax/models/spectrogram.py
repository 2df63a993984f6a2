"""Transformers over log-mel spectrograms, as videos [t m 1 1]: cubes are patches of frames and bins."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float, Shaped

from vmae_jax.models.positions import Positions
from vmae_jax.models.variants import Model, vit
from vmae_jax.patches import Patch
from vmae_jax.registry import register
from vmae_jax.types import Grid

__all__ = ["Spectrogram", "spectrogram"]


@dataclasses.dataclass(frozen=True)
class Spectrogram(Model):
    """A transformer whose clips are spectrograms, normalised where they are computed (`inputs.log_mel`)."""

    def normalize(self, cubes: Shaped[Any, "b v p"]) -> Float[Any, "b v p"]:
        """Return the cubes as they are, float32."""
        return jnp.asarray(cubes, jnp.float32)


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a tiny model, for the half second of a tiny stream of sound."""
    dims = dict.fromkeys(("width", "depth", "heads", "decoder_width", "decoder_heads"))
    return dims | {"size": "micro", "frames": 48, "bins": 32, "patch": 8, "decoder_depth": 1, "dtype": "float32"}


@register("model", positions="positions", smoke=_smoke)
def spectrogram(
    size: str = "B",
    frames: int = 992,
    bins: int = 128,
    patch: int = 16,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    decoder_width: int | None = None,
    decoder_depth: int = 4,
    decoder_heads: int | None = None,
    positions: Positions | None = None,
    drop_path: float = 0.0,
    dtype: str = "auto",
    remat: str = "none",
    unroll: int = 1,
    attention: str = "auto",
    project_bias: bool = False,
    initial: str = "videomae",
    prefix: int = 0,
    prefix_positions: bool = False,
) -> Model:
    """Return a transformer over spectrograms. Tokens are in the order of time, then frequency.

    Args:
      frames, bins: the shape of a spectrogram.
      patch: the frames and bins of a token.
      size, width, depth, heads, decoder_width, decoder_depth, decoder_heads: as in `models.variants.vit`.
      positions, drop_path, dtype, remat, unroll, attention, project_bias, initial, prefix, prefix_positions: likewise.

    Raises:
      ValueError: if a choice is unknown, or dimensions do not divide.
    """
    if patch < 1 or min(frames, bins) < patch or frames % patch or bins % patch:
        raise ValueError(f"{frames} frames of {bins} bins do not divide into patches of {patch}: use multiples of it")
    names = {"width": width, "depth": depth, "heads": heads, "drop_path": drop_path, "positions": positions}
    names |= {"decoder_width": decoder_width, "decoder_depth": decoder_depth, "decoder_heads": decoder_heads}
    names |= {"dtype": dtype, "remat": remat, "unroll": unroll, "attention": attention, "initial": initial}
    names |= {"prefix": prefix, "prefix_positions": prefix_positions}
    square: Any = vit(
        size,
        frames,
        patch,
        channels=1,
        tubelet=patch,
        patch=patch,
        mean=[0.0],
        std=[1.0],
        project_bias=project_bias,
        **names,
    )
    grid = Grid(frames // patch, bins // patch, 1)
    return Spectrogram(
        patch=Patch(patch, patch, 1),
        grid=grid,
        channels=1,
        mean=square.mean,
        std=square.std,
        encoder=square.encoder.clone(grid=grid),
        decoder={**square.decoder, "grid": grid},
    )
