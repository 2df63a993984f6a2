"""The sizes of the published models, and the model of a config."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from vmae_jax.models.attention import FORMS
from vmae_jax.models.decoder import Decoder
from vmae_jax.models.encoder import Encoder
from vmae_jax.models.initial import SCHEMES
from vmae_jax.models.positions import Positions, sinusoid_1d
from vmae_jax.models.rotary import Rotary
from vmae_jax.models.stack import REMAT
from vmae_jax.models.styles import STYLES
from vmae_jax.patches import Patch
from vmae_jax.registry import register
from vmae_jax.types import Grid

__all__ = ["DTYPES", "IMAGENET_MEAN", "IMAGENET_STD", "VARIANTS", "Model", "Variant", "per_channel", "vit"]

# The statistics of ImageNet, for pixels in [0, 1], with which the published models were trained.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Variant(NamedTuple):
    """The dimensions of a published model."""

    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_heads: int
    patch: int = 16
    mlp_ratio: float = 4.0


# VideoMAE V2, official code. "tiny" and "micro" are ours, for CPUs and tests.
VARIANTS = {
    "S": Variant(384, 12, 6, 192, 3),
    "B": Variant(768, 12, 12, 384, 6),
    "L": Variant(1024, 24, 16, 512, 8),
    "H": Variant(1280, 32, 16, 512, 8),
    "g": Variant(1408, 40, 16, 512, 8, patch=14, mlp_ratio=48 / 11),
    # The encoder has the dimensions of InternVideo2-6B (official code, internvideo2_6b_patch14_224) and InternViT-6B.
    # No VideoMAE of this size has been published, so it has the decoder of "g".
    "6B": Variant(3200, 48, 25, 512, 8, patch=14),
    "tiny": Variant(128, 6, 4, 64, 2, patch=8),
    "micro": Variant(32, 2, 2, 16, 2, patch=8),
}


@dataclasses.dataclass(frozen=True)
class Model:
    """A video transformer: how pixels become cubes, and the networks that read these.

    Attributes:
      patch: the size of a cube.
      grid: the tokens of a clip.
      channels: the number of channels of the video.
      mean, std: the statistics of the pixels, for `normalize`.
      encoder: the encoder, with its final norm.
      decoder: the arguments of the decoder, except its heads.
    """

    patch: Patch
    grid: Grid
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encoder: Encoder
    decoder: Mapping[str, Any]

    @property
    def video_shape(self) -> tuple[int, int, int, int]:
        """The shape of one clip, [t h w c]."""
        g, p = self.grid, self.patch
        return g.t * p.t, g.h * p.h, g.w * p.w, self.channels

    @property
    def cube(self) -> int:
        """The number of values of a cube."""
        return math.prod(self.patch) * self.channels

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if the clips of a batch do not have the shape that the model was built for."""
        if tuple(shape[1:]) != self.video_shape:
            raise ValueError(
                f"the model takes clips of {'x'.join(map(str, self.video_shape))} (t x h x w x c), "
                f"the data has {'x'.join(map(str, shape[1:]))}"
            )

    def normalize(self, cubes: Shaped[Any, "b v p"]) -> Float[Array, "b v p"]:
        """Return uint8 cubes normalised for the encoder. No other code normalises its pixels."""
        split = jnp.asarray(cubes, jnp.float32).reshape(*cubes.shape[:2], -1, self.channels) / 255.0
        return ((split - jnp.asarray(self.mean)) / jnp.asarray(self.std)).reshape(cubes.shape)

    def make_decoder(self, heads: Mapping[str, int]) -> Decoder:
        """Return the decoder, with one head per objective."""
        return Decoder(**self.decoder, heads=dict(heads))


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a tiny model; a model of images stays one."""
    image = given["frames"] == 1
    return {
        **dict.fromkeys(("width", "depth", "heads", "mlp_ratio")),
        **dict.fromkeys(("decoder_width", "decoder_heads", "decoder_mlp_ratio")),
        "levels": [0, 1] if given.get("levels") else [],
        **{"size": "micro", "resolution": 32, "patch": 8, "decoder_depth": 1, "dtype": "float32"},
        **({"frames": 1, "tubelet": 1} if image else {"frames": 8, "tubelet": 2}),
    }


@register("model", positions="positions", smoke=_smoke)
def vit(
    size: str = "B",
    frames: int = 16,
    resolution: int = 224,
    channels: int = 3,
    tubelet: int = 2,
    patch: int | None = None,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    mlp_ratio: float | None = None,
    decoder_mlp_ratio: float | None = None,
    decoder_width: int | None = None,
    decoder_depth: int = 4,
    decoder_heads: int | None = None,
    positions: Positions | None = None,
    cosine_attention: bool = False,
    layer_scale: float | None = None,
    drop_path: float = 0.0,
    dtype: str = "auto",
    remat: str = "none",
    unroll: int = 1,
    attention: str = "auto",
    prefix: int = 0,
    prefix_positions: bool = False,
    decoder_prefix: str = "own",
    project_bias: bool = False,
    qkv_bias: bool = True,
    initial: str = "videomae",
    levels: Sequence[int] = (),
    mask_tokens: int = 1,
    modality: bool = False,
    style: str = "vit",
    causal: bool = False,
    mean: tuple[float, ...] | list[float] = IMAGENET_MEAN,
    std: tuple[float, ...] | list[float] = IMAGENET_STD,
) -> Model:
    """A video transformer of a published size. Any of its dimensions can be changed.

    Args:
      size: a key of `VARIANTS`, which has the dimensions that are None here.
      frames, resolution, channels: the shape of the clips.
      tubelet, patch: the frames of a cube, and the pixels along its sides.
      mlp_ratio: the width of the MLPs relative to that of the encoder or decoder.
      decoder_mlp_ratio: that of the decoder, where it is another.
      positions: the position embeddings; by default a fixed 1-D sinusoid.
      layer_scale: the initial value of a learned factor on every branch; None omits the factor.
      drop_path: the rate at the last block of the encoder.
      dtype: the dtype of the matrix products: "float32", "bfloat16", or "auto" (float32 on a CPU, else bfloat16).
      remat: what the backward pass keeps, a key of `models.stack.REMAT`.
      unroll: how many blocks each iteration of the scan contains (0: all of them).
      attention: the implementation, one of `models.attention.FORMS`; "auto" is the best one of the platform.
      prefix: the number of learned tokens before those of the clip (1: the class token of MAE, MAE-ST and HVM-1).
        They are left out of all means over tokens.
      prefix_positions: whether these have learned positions (MAE-ST).
      decoder_prefix: the tokens before the decoder's: "own", as many learned tokens of the decoder (MAE-ST), or
        "kept", those of the encoder (MAE).
      project_bias: whether the projection from the encoder to the decoder has a bias (MAE, MAE-ST).
      qkv_bias: whether queries and values have biases, and with rotary positions keys, too; without these, the softmax
        would cancel a bias of the keys.
      initial: the initial values, a key of `models.initial.SCHEMES`.
      levels: blocks of the encoder, from 0 and ascending, whose outputs it returns side by side, each after a norm of
        its own (V-JEPA 2.1); by default the output of the last.
      mask_tokens: the number of mask tokens of the decoder.
      modality: whether a learned vector is added to all tokens of the encoder (V-JEPA 2.1).
      style: the form of the encoder, a key of `models.styles.STYLES`: "clip" is that of CLIP's image tower.
      causal: whether the encoder's attention is block-causal: a token attends to its own and earlier slots (LeVJEPA).
      mean, std: the statistics of the pixels in [0, 1], per channel.

    Raises:
      ValueError: if the size, the dtype or another choice is unknown, or dimensions do not divide.
    """
    for what, value, known in (
        ("size", size, VARIANTS),
        ("dtype", dtype, DTYPES),
        ("remat", remat, REMAT),
        ("attention", attention, FORMS),
        ("initial", initial, SCHEMES),
        ("style", style, STYLES),
        ("decoder_prefix", decoder_prefix, ("own", "kept")),
    ):
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}: there are {', '.join(known)}")
    v = VARIANTS[size]
    width, depth, heads = width or v.width, depth or v.depth, heads or v.heads
    decoder_width, decoder_heads = decoder_width or v.decoder_width, decoder_heads or v.decoder_heads
    patch, mlp_ratio = patch or v.patch, mlp_ratio or v.mlp_ratio
    _check_levels(levels, depth)
    if mask_tokens < 1:
        raise ValueError(f"mask_tokens={mask_tokens}: at least 1")
    if not 1 <= channels <= 1024:
        raise ValueError(f"channels={channels}: 1 to 1024")
    if prefix < 0:
        raise ValueError(f"prefix={prefix}: a number of tokens, at least 0")
    if not prefix and (prefix_positions or decoder_prefix != "own"):
        raise ValueError("prefix_positions and decoder_prefix are about the tokens of prefix, and prefix is 0")
    _check_dims(frames, resolution, tubelet, patch, [(width, heads), (decoder_width, decoder_heads)])
    mean, std = per_channel(mean, channels, "mean"), per_channel(std, channels, "std")

    rotated = isinstance(positions, Rotary)

    def blocks(width: int, depth: int, heads: int, mlp_ratio: float) -> dict[str, Any]:
        return {
            "depth": depth,
            "heads": heads,
            "hidden": int(width * mlp_ratio),
            "cosine": cosine_attention,
            "layer_scale": layer_scale,
            "remat": remat,
            "unroll": unroll or depth,
            "attention": attention,
            "initial": initial,
            "biases": "" if not qkv_bias else "qkv" if rotated else "qv",
        }

    grid = Grid(frames // tubelet, resolution // patch, resolution // patch)
    common = {"grid": grid, "positions": positions or sinusoid_1d(), "dtype": DTYPES[dtype](), "initial": initial}
    common |= {"prefix": prefix, "prefix_positions": prefix_positions}
    between = {"keep_prefix": decoder_prefix == "kept", "project_bias": project_bias, "mask_tokens": mask_tokens}
    below = {**blocks(width, depth, heads, mlp_ratio), "drop_path": drop_path, "style": style}
    return Model(
        patch=Patch(tubelet, patch, patch),
        grid=grid,
        channels=channels,
        mean=mean,
        std=std,
        encoder=Encoder(width=width, blocks=below, levels=tuple(levels), modality=modality, causal=causal, **common),
        decoder={
            "width": decoder_width,
            "blocks": blocks(decoder_width, decoder_depth, decoder_heads, decoder_mlp_ratio or mlp_ratio),
            **between,
            **common,
        },
    )


DTYPES = {
    "float32": lambda: jnp.float32,
    "bfloat16": lambda: jnp.bfloat16,
    "auto": lambda: jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16,
}


def _check_dims(frames: int, resolution: int, tubelet: int, patch: int, widths: list[tuple[int, int]]) -> None:
    if frames % tubelet or resolution % patch or min(frames, resolution) < 1:
        raise ValueError(
            f"{frames} frames of {resolution} pixels do not divide into cubes of {tubelet}x{patch}x{patch}: "
            f"frames must be a multiple of {tubelet}, the resolution of {patch}"
        )
    for width, heads in widths:
        if width % heads or width % 2:
            raise ValueError(f"a width of {width} does not divide into {heads} heads (and must be even)")


def _check_levels(levels: Sequence[int], depth: int) -> None:
    if list(levels) != sorted(set(levels)) or any(not 0 <= level < depth for level in levels):
        raise ValueError(f"levels={list(levels)}: ascending numbers of blocks, from 0 to {depth - 1}")


def per_channel(values: Any, channels: int, what: str) -> tuple[float, ...]:
    """Return one number per channel; by default, other than three channels get the average of the three."""
    values = tuple(float(value) for value in values)
    if len(values) == channels:
        return values
    if values in (IMAGENET_MEAN, IMAGENET_STD):
        return (sum(values) / len(values),) * channels
    raise ValueError(f"{what} has {len(values)} numbers for {channels} channels")
