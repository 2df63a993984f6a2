"""Weights of CropMAE's code, which has SiamMAE too: files in its layout, and configs of them."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vmae_jax.models.variants import IMAGENET_MEAN, IMAGENET_STD
from vmae_jax.spec import call
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.infer import check_size
from vmae_jax.weights.layouts.cropmae import from_cropmae, is_cropmae, stripped, to_cropmae
from vmae_jax.weights.layouts.dims import Dims, check_axes, checked_heads, depth_of, mlp_ratio
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.published import cast, check_same, finite, floats, write_file
from vmae_jax.weights.subject import Subject

__all__ = ["METHOD", "config_of", "is_siamese", "params_of", "write"]

METHOD = "methods.siamese.build"
HEADS = {384: 6, 768: 12, 1024: 16}  # of the published encoders, which files do not show
DECODER_HEADS = 8  # of all published decoders
RATIO = 0.985  # of CropMAE


def is_siamese(file: tensors.File) -> bool:
    """Return whether a file has weights in CropMAE's layout, with their decoder."""
    return is_cropmae(file.state)


def config_of(file: tensors.File) -> ConfigDict:
    """Return a config with a section `method` that fits a file.

    Raises:
      MismatchError: if its shapes are those of no such model.
    """
    state, about = stripped(file.state), file.about
    check_axes(state, {"patch_embed.proj.weight": 4, "pos_embed": 3, "decoder_embed.weight": 2})
    width, channels, patch = state["patch_embed.proj.weight"].shape[:3]
    decoder_width, side = len(state["decoder_embed.weight"]), math.isqrt(state["pos_embed"].shape[1])
    heads = checked_heads(about.get("num_attention_heads", HEADS.get(width)), width)
    decoder_heads = checked_heads(about.get("decoder_num_attention_heads", DECODER_HEADS), decoder_width)
    mlp, hidden = (_rows(state, name) for name in ("blocks.0.mlp.fc1.weight", "decoder_blocks.0.linear1.weight"))
    depth, decoder_depth = (depth_of(state, name) for name in ("blocks", "decoder_blocks"))
    if min(side, patch, channels, mlp, hidden, depth, decoder_depth) < 1:
        raise MismatchError("the shapes of the weights are those of no model")
    dims = Dims("pretraining", width, depth, mlp, patch, 0, channels, decoder_width, decoder_depth, hidden)
    check_size(state, dims, side * side)
    keeps = int(side * side * (1 - RATIO)) > 0
    statistics = {"mean": list(IMAGENET_MEAN), "deviation": list(IMAGENET_STD)}
    target = call("targets.pixels", normalize=bool(about.get("norm_pix_loss", True)), joint=True, **statistics)
    model = call(
        "models.variants.vit",
        size="B",
        frames=1,
        tubelet=1,
        resolution=side * patch,
        channels=channels,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=mlp_ratio(mlp, width),
        decoder_width=decoder_width,
        decoder_depth=decoder_depth,
        decoder_heads=decoder_heads,
        positions=call("models.positions.sincos_2d"),
        prefix=1,
        decoder_prefix="kept",
        project_bias=True,
        initial="mae",
    )
    method = call(
        METHOD,
        model=model,
        encoder_mask=call("masking.random", ratio=RATIO, rounded_down="visible" if keeps else "hidden"),
        objectives={"pixels": call("targets.core.objective", target=target)},
        hidden=hidden,
    )
    return ConfigDict({"method": method}, sort_keys=False, convert_dict=False)


def params_of(file: tensors.File, one: Subject, template: Any) -> Any:
    """Return our parameters from a file in CropMAE's layout.

    Args:
      file: the weights.
      one: the method that they are for.
      template: its parameters, for names and shapes.

    Raises:
      MismatchError: if it is another method, or the weights do not fit it.
    """
    _check(one)
    return from_cropmae(floats(stripped(file.state)), one.facts, template)


def write(path: pathlib.Path, one: Subject, params: Any, dtype: str) -> dict[str, np.ndarray]:
    """Write a file in CropMAE's layout, read it back, and return its tensors.

    Raises:
      MismatchError: if the layout has no place for the method or one of its parameters.
    """
    _check(one)
    state = to_cropmae(params, one.facts)
    finite(state)
    about = {"image_size": one.model.video_shape[1], "num_attention_heads": one.facts.heads}
    about |= {"decoder_num_attention_heads": one.facts.decoder_heads}
    write_file(path, cast(state, dtype), about)
    check_same(params_of(tensors.read_file(path), one, params), params, dtype)
    return state


def _check(one: Subject) -> None:
    """Raise MismatchError if a method is not of the form that CropMAE's code has."""
    node: Any = one.config.get("method")
    if node.call != METHOD or one.model is None:
        raise MismatchError(f"CropMAE's layout is of {METHOD}, and the config has {node.call}")
    if node.get("norm", "post") != "post" or not one.facts.image or set(node.objectives) != {"pixels"}:
        raise MismatchError(
            "CropMAE's layout has images with a class token, norm='post' and one objective named pixels; this config "
            "differs: use --format=params"
        )


def _rows(state: Mapping[str, np.ndarray], name: str) -> int:
    if name not in state or not state[name].ndim:
        raise MismatchError(f"{name} is missing from the weights")
    return len(state[name])
