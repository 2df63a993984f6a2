"""Transformers over sequences of vectors, such as the features of a long video's segments."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vmae_jax.models.attention import FORMS
from vmae_jax.models.decoder import Decoder
from vmae_jax.models.encoder import Encoder
from vmae_jax.models.positions import sinusoid_1d
from vmae_jax.models.stack import REMAT
from vmae_jax.models.variants import DTYPES
from vmae_jax.registry import register
from vmae_jax.types import Grid

__all__ = ["SequenceModel", "transformer"]


@dataclasses.dataclass(frozen=True)
class SequenceModel:
    """An encoder and a decoder of sequences of any length, whose positions are fixed.

    Attributes:
      encoder: with a class token.
      decoder: the arguments of the decoder, except its heads.
    """

    encoder: Encoder
    decoder: Mapping[str, Any]

    def encoder_of(self, length: int, size: int) -> Encoder:
        """Return the encoder for sequences of `length` vectors of `size`; those of another size are projected."""
        return self.encoder.clone(grid=Grid(length, 1, 1), embed=size != self.encoder.width)

    def decoder_of(self, length: int, heads: Mapping[str, int]) -> Decoder:
        """Return the decoder for sequences of `length` vectors, with these heads."""
        return Decoder(**{**self.decoder, "grid": Grid(length, 1, 1)}, heads=dict(heads))


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dimensions of a tiny model."""
    widths = {"width": 32, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    return widths | {"dtype": "float32"}


@register("sequence_model", smoke=_smoke)
def transformer(
    width: int = 1024,
    depth: int = 32,
    heads: int = 16,
    decoder_width: int = 512,
    decoder_depth: int = 8,
    decoder_heads: int = 16,
    mlp_ratio: float = 4.0,
    dtype: str = "auto",
    remat: str = "none",
    unroll: int = 1,
    attention: str = "auto",
) -> SequenceModel:
    """Return the networks of LV-MAE: MAE's blocks, a class token that passes to the decoder, and 1-D sinusoids.

    Args:
      width, depth, heads: of the encoder. Vectors of its width are not embedded, others by a linear layer.
      decoder_width, decoder_depth, decoder_heads: of the decoder.
      mlp_ratio: the width of the MLPs relative to that of the encoder or decoder.
      dtype, remat, unroll, attention: as in `models.variants.vit`.

    Raises:
      ValueError: if a choice is unknown, or dimensions do not divide.
    """
    for what, value, known in (("dtype", dtype, DTYPES), ("remat", remat, REMAT), ("attention", attention, FORMS)):
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}: there are {', '.join(known)}")
    for one, parts in ((width, heads), (decoder_width, decoder_heads)):
        if min(one, parts, depth, decoder_depth) < 1 or one % parts or one % 2:
            raise ValueError(f"a width of {one} does not divide into {parts} heads (and must be even)")

    def blocks(width: int, depth: int, heads: int) -> dict[str, Any]:
        options = {"remat": remat, "unroll": unroll or depth, "attention": attention, "initial": "mae"}
        return {"depth": depth, "heads": heads, "hidden": int(width * mlp_ratio), **options}

    common = {
        "grid": Grid(1, 1, 1),
        "positions": sinusoid_1d(),
        "dtype": DTYPES[dtype](),
        "initial": "mae",
        "prefix": 1,
    }
    between = {"keep_prefix": True, "project_bias": True}
    return SequenceModel(
        encoder=Encoder(width=width, blocks=blocks(width, depth, heads), **common),
        decoder={"width": decoder_width, "blocks": blocks(decoder_width, decoder_depth, decoder_heads)}
        | between
        | common,
    )
