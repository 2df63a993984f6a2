"""The published sizes of Hiera, with the decoder of its masked autoencoder."""

from collections.abc import Mapping
from typing import Any, cast

from vmae_jax.models.attention import FORMS
from vmae_jax.models.hiera import INITIAL, SIDE, Hiera, Size
from vmae_jax.models.positions import learned
from vmae_jax.models.stack import REMAT
from vmae_jax.models.variants import DTYPES, IMAGENET_MEAN, IMAGENET_STD, Model, per_channel
from vmae_jax.patches import Patch
from vmae_jax.registry import register
from vmae_jax.types import Grid

__all__ = ["SIZES", "hiera"]

# Official code. T and S were published for images only. "micro" is ours, for CPUs and tests.
SIZES = {
    "T": Size(96, 1, (1, 2, 7, 2)),
    "S": Size(96, 1, (1, 2, 11, 2)),
    "B": Size(96, 1, (2, 3, 16, 3)),
    "B+": Size(112, 2, (2, 3, 16, 3)),
    "L": Size(144, 2, (2, 6, 36, 4)),
    "H": Size(256, 4, (2, 6, 36, 4)),
    "micro": Size(8, 1, (1, 1, 2, 1)),
}


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a tiny model; a model of images stays one."""
    frames = {"frames": 1, "tubelet": 1} if given["frames"] == 1 else {"frames": 8, "tubelet": 2}
    sizes = {"size": "micro", "resolution": 32, "patch": 2, "dtype": "float32"}
    return {**sizes, **frames, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


@register("model", smoke=_smoke)
def hiera(
    size: str = "B",
    frames: int = 16,
    resolution: int = 224,
    channels: int = 3,
    tubelet: int = 2,
    patch: int = 4,
    mlp_ratio: float = 4.0,
    pools: int = 2,
    drop_path: float = 0.0,
    decoder_width: int = 512,
    decoder_depth: int = 8,
    decoder_heads: int = 16,
    dtype: str = "auto",
    remat: str = "none",
    unroll: int = 1,
    attention: str = "auto",
    mean: tuple[float, ...] | list[float] = IMAGENET_MEAN,
    std: tuple[float, ...] | list[float] = IMAGENET_STD,
) -> Model:
    """A Hiera of a published size, with the decoder of its masked autoencoder.

    Args:
      size: a key of `SIZES`.
      frames, resolution, channels: the shape of the clips; images have one frame and a tubelet of 1.
      tubelet, patch: the stride of the patch convolution, whose kernel is 2 * stride - 1 and whose padding stride - 1.
      mlp_ratio: the width of the MLPs relative to that of their block.
      pools: the number of poolings, 2 (pre-training) or 3 (classification).
      drop_path: the rate at the last block of the encoder.
      decoder_width, decoder_depth, decoder_heads: of the decoder.
      dtype, remat, unroll, attention: as in `models.variants.vit`.
      mean, std: the statistics of the pixels in [0, 1], per channel.

    Raises:
      ValueError: if a choice is unknown, or the clips do not divide into mask units.

    Source: the official code and arXiv 2306.00989.
    """
    for what, value, known in (
        ("size", size, SIZES),
        ("dtype", dtype, DTYPES),
        ("remat", remat, REMAT),
        ("attention", attention, FORMS),
        ("pools", pools, (2, 3)),
    ):
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}: there are {', '.join(map(str, known))}")
    if not 1 <= channels <= 1024:
        raise ValueError(f"channels={channels}: 1 to 1024")
    unit = SIDE * patch
    if min(frames, resolution, tubelet, patch) < 1 or frames % tubelet or resolution % unit:
        raise ValueError(
            f"{frames} frames of {resolution} pixels do not divide into mask units of {tubelet}x{unit}x{unit}: "
            f"frames must be a multiple of {tubelet}, the resolution of {unit}"
        )
    if decoder_width % decoder_heads:
        raise ValueError(f"a width of {decoder_width} does not divide into {decoder_heads} heads")
    cube = Patch(tubelet, patch << pools, patch << pools)
    grid = Grid(frames // tubelet, resolution // cube.h, resolution // cube.w)
    speed: dict[str, Any] = {"remat": remat, "attention": attention}
    encoder = Hiera(
        patch=cube,
        size=SIZES[size],
        mlp_ratio=mlp_ratio,
        pools=pools,
        drop_path=drop_path,
        unroll=unroll,
        grid=grid,
        dtype=DTYPES[dtype](),
        **speed,
    )
    blocks = {"depth": decoder_depth, "heads": decoder_heads, "hidden": int(decoder_width * mlp_ratio), "biases": "qkv"}
    blocks |= {"unroll": unroll or decoder_depth, "initial": INITIAL, "cosine": False, "layer_scale": None, **speed}
    return Model(
        patch=cube,
        grid=grid,
        channels=channels,
        mean=per_channel(mean, channels, "mean"),
        std=per_channel(std, channels, "std"),
        encoder=cast(Any, encoder),
        decoder={
            "width": decoder_width,
            "blocks": blocks,
            "positions": learned(),
            "keep_prefix": False,
            "project_bias": True,
            "mask_tokens": 1,
            "initial": INITIAL,
            "grid": grid,
            "dtype": DTYPES[dtype](),
        },
    )
