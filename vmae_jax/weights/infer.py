"""The config of weights without one, from their shapes and the description in the file."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vmae_jax.models.positions import Positions, sincos_2d
from vmae_jax.models.variants import IMAGENET_MEAN, IMAGENET_STD
from vmae_jax.spec import ConfigError, call
from vmae_jax.types import Grid
from vmae_jax.weights.layouts.dims import Dims, dims_of
from vmae_jax.weights.layouts.fit import sinusoid
from vmae_jax.weights.layouts.names import Weights

__all__ = ["check_size", "config_of"]

# Weights do not show the number of heads. These are those of the published models (VideoMAE, VideoMAE V2).
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
DECODER_HEADS = {96: 3, 192: 3, 384: 6, 512: 8, 640: 8}
MAX_TOKENS = 1 << 17
MAE_DECODER_HEADS = 16  # of MAE, MAE-ST and HVM-1, which their files lack
MAE_ST = {"mean": 0.45, "std": 0.225}


def config_of(weights: Weights) -> ConfigDict:
    """Return a config with a section `method`, whose model fits the weights.

    Raises:
      ConfigError: if neither the file nor a published model determines something.
    """
    dims, about = dims_of(weights.state), weights.about
    about = _grid_of(weights.state, dims) | about
    frames, resolution = about.get("num_frames", 16), _resolution(about, dims)
    image = weights.family == "mae" and not dims.tubelet and weights.kind == "pretraining"
    tubelet = 1 if image else dims.tubelet or about.get("tubelet_size", 2)
    frames = 1 if image else frames
    tokens = max(frames // tubelet, 1) * (resolution // dims.patch) ** 2
    check_size(weights.state, dims, tokens)
    model = call(
        "models.variants.vit",
        size="B",
        frames=frames,
        resolution=resolution,
        channels=dims.channels,
        tubelet=tubelet,
        patch=dims.patch,
        width=dims.width,
        depth=dims.depth,
        heads=dims.heads or _heads(about.get("num_attention_heads"), HEADS, dims.width, "heads"),
        mlp_ratio=_ratio(dims),
        cosine_attention=dims.cosine,
        layer_scale=0.1 if dims.layer_scale else None,
        initial={"mae": "mae", "mae-st": "mae_st"}.get(weights.family, "videomae"),
        **_statistics(weights, dims.channels),
    )
    if any(name.removeprefix("encoder.") == "cls_token" for name in weights.state):
        model.prefix = 1
        model.prefix_positions = _class_positions(weights.state)
    if dims.decoder_width:
        given = about.get("decoder_num_attention_heads")
        if given is None and weights.family in ("mae", "mae-st"):
            given = MAE_DECODER_HEADS
        heads = _heads(given, DECODER_HEADS, dims.decoder_width, "decoder_heads")
        model.update(decoder_width=dims.decoder_width, decoder_depth=dims.decoder_depth, decoder_heads=heads)
        model.project_bias = "encoder_to_decoder.bias" in weights.state
        if model.prefix and "decoder.cls_token" not in weights.state:
            model.decoder_prefix = "kept"
    if any(name.endswith("pos_embed_spatial") for name in weights.state):
        model.positions = call("models.positions.separable")
    elif any(_is(sincos_2d(), name, array) for name, array in weights.state.items()):
        model.positions = call("models.positions.sincos_2d")
    elif any(_learned(name, array) for name, array in weights.state.items()):
        model.positions = call("models.positions.learned")
    if weights.kind == "classifier":
        method = call("methods.classify.build", model=model, classes=max(dims.classes, 2))
    else:
        method = call(
            "methods.masked.build",
            model=model,
            encoder_mask=_mask(weights.family, image, tokens),
            objectives={"pixels": call("targets.core.objective", target=_target(weights, model, about))},
        )
    return ConfigDict({"method": method}, sort_keys=False, convert_dict=False)


def _mask(family: str, image: bool, tokens: int) -> ConfigDict:
    """The mask of the published recipe; of a model so small that it would leave nothing visible, one token more."""
    if family not in ("mae", "mae-st"):
        return call("masking.tube", ratio=0.9)
    ratio = 0.75 if image else 0.9
    return call("masking.random", ratio=ratio, rounded_down="visible" if int(tokens * (1 - ratio)) else "hidden")


def _target(weights: Weights, model: Any, about: dict[str, Any]) -> ConfigDict:
    """The pixels that the decoder predicts, all of a cube or (MAE-ST) some of its frames."""
    more: dict[str, Any] = {}
    if weights.family in ("mae", "mae-st"):
        more = {"joint": True, "mean": list(model.mean or IMAGENET_MEAN), "deviation": list(model.std or IMAGENET_STD)}
    head = weights.state.get("decoder.head.weight")
    cube = model.tubelet * model.patch**2 * model.channels
    if head is not None and len(head) != cube and cube % len(head) == 0:
        more["frames"] = model.frames * len(head) // cube
    return call("targets.pixels", normalize=bool(about.get("norm_pix_loss", True)), **more)


def _class_positions(state: Any) -> bool:
    """Whether a class token has a position that is not always zero, as MAE's is."""
    tables = [array for name, array in state.items() if name.endswith("pos_embed_class")]
    return any(np.any(array) for array in tables)


def _is(positions: Positions, name: str, array: np.ndarray) -> bool:
    """Whether a table is of fixed positions, on a square grid of one frame."""
    side = math.isqrt(array.shape[1]) if name.endswith("pos_embed") else 0
    if not side or side * side != array.shape[1] or array.shape[2] % 4:
        return False
    module = positions(Grid(1, side, side), array.shape[2])
    return bool(np.abs(np.asarray(module.apply({}, np.arange(side * side)[None])) - array).max() < 1e-4)


def check_size(state: Mapping[str, np.ndarray], dims: Dims, tokens: int) -> None:
    """Raise ConfigError where shapes and config describe a model far larger than the weights.

    A few long vectors and a number in a config would otherwise allocate any amount of memory.
    """
    have = sum(array.size for array in state.values())
    blocks = dims.depth * dims.width * (4 * dims.width + 2 * dims.hidden)
    blocks += dims.decoder_depth * dims.decoder_width * (4 * dims.decoder_width + 2 * dims.decoder_hidden)
    if blocks > 4 * have + (1 << 26) or tokens > MAX_TOKENS or tokens * max(dims.width, dims.decoder_width) > 1 << 28:
        raise ConfigError(
            f"the weights' shapes and config describe a model of {blocks} parameters and {tokens} tokens, "
            f"and there are {have} numbers: give --config"
        )


def _statistics(weights: Weights, channels: int) -> dict[str, list[float]]:
    """Return mean and deviation of the pixels, from preprocessor_config.json or those of MAE-ST."""
    about = weights.about
    found = {ours: about[theirs] for ours, theirs in (("mean", "image_mean"), ("std", "image_std")) if theirs in about}
    if weights.family == "mae-st":
        found = {name: [MAE_ST[name]] * channels for name in ("mean", "std")} | found
    for name, values in found.items():
        numbers = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
        if not numbers or len(values) != channels or (name == "std" and min(values) <= 0):
            raise ConfigError(f"preprocessor_config.json: image_{name} is not {channels} numbers: give --config")
    return {name: [float(value) for value in values] for name, values in found.items()}


def _grid_of(state: Any, dims: Dims) -> dict[str, int]:
    """Return frames and pixels, if learned positions determine them."""
    found = {}
    for name, array in state.items():
        if name.startswith("decoder."):
            continue
        if name.endswith("pos_embed_temporal") and dims.tubelet:
            found["num_frames"] = int(array.shape[1]) * dims.tubelet
        if name.endswith("pos_embed_spatial"):
            found["image_size"] = math.isqrt(int(array.shape[1])) * dims.patch
    return found


def _learned(name: str, array: np.ndarray) -> bool:
    return name.endswith("pos_embed") and np.abs(array[0] - sinusoid(*array.shape[1:])).max() > 1e-4


def _resolution(about: dict[str, Any], dims: Dims) -> int:
    size = about.get("image_size", 224)
    if isinstance(size, list) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int) or size % dims.patch:
        raise ConfigError(f"clips of {size} pixels are not supported with cubes of {dims.patch}: give --config")
    return size


def _heads(given: Any, known: dict[int, int], width: int, name: str) -> int:
    if given is not None:
        if width % given:
            raise ConfigError(f"the weights' own config has {given} {name}, which do not divide a width of {width}")
        return given
    if width not in known:
        raise ConfigError(f"weights do not determine how many {name} a width of {width} has: give --config")
    return known[width]


def _ratio(dims: Dims) -> float:
    """Return an mlp_ratio that gives the exact widths of the MLPs after multiplying and truncating."""
    pairs = [(dims.width, dims.hidden)]
    if dims.decoder_width:
        pairs.append((dims.decoder_width, dims.decoder_hidden))
    candidates = [hidden / width for width, hidden in pairs]
    candidates += [(hidden + 0.5) / width for width, hidden in pairs]
    for ratio in candidates:
        if all(int(width * ratio) == hidden for width, hidden in pairs):
            return ratio
    raise ConfigError(f"no mlp_ratio gives MLPs of {' and '.join(str(hidden) for _, hidden in pairs)}: give --config")
