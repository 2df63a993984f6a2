"""CLIP's towers: configs of files in the layout of transformers, and their parameters."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vmae_jax.spec import call
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.formats.checks import shown
from vmae_jax.weights.infer import check_size
from vmae_jax.weights.layouts import clip
from vmae_jax.weights.layouts.dims import Dims, check_axes, checked_heads, depth_of, mlp_ratio
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.published import finite
from vmae_jax.weights.subject import Subject

__all__ = ["config_of", "is_clip", "params_of", "text_tower", "tower"]

METHOD = "methods.pretrained.build"
HEADS = {768: 12, 1024: 16, 1280: 16}  # of the published towers, for files without a config
HEAD = 64  # the width of a head of the published text towers, for files without a config
# The statistics of the pixels that CLIP was trained with.
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
ONLY = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}  # what the tower here has


def is_clip(file: tensors.File) -> bool:
    """Return whether a file has CLIP's image tower, in the layout of transformers."""
    return clip.is_clip(file.state)


def config_of(file: tensors.File) -> ConfigDict:
    """Return a config with a section `method` that fits a file.

    Raises:
      MismatchError: if its shapes are those of no such model, or it has another activation.
    """
    text = clip.has_text(file.state)
    state, _ = clip.split(file.state, text=text)
    about = _about(file.about, "vision_config")
    check_axes(state, {"embeddings.patch_embedding.weight": 4, clip.TABLE: 2, "encoder.layers.0.mlp.fc1.weight": 2})
    width, channels, patch = state["embeddings.patch_embedding.weight"].shape[:3]
    side = math.isqrt(max(len(state[clip.TABLE]) - 1, 0))
    hidden, depth = len(state["encoder.layers.0.mlp.fc1.weight"]), depth_of(state, "encoder.layers")
    if side < 1:
        raise MismatchError("the shapes of the weights are those of no model")
    check_size(state, Dims("encoder", width, depth, hidden, patch, 1, channels), side * side)
    projection = state.get("visual_projection.weight")
    model = tower(
        size="B",
        resolution=side * patch,
        channels=channels,
        patch=patch,
        width=width,
        depth=depth,
        heads=checked_heads(about.get("num_attention_heads", HEADS.get(width)), width),
        mlp_ratio=mlp_ratio(hidden, width),
    )
    method = call(
        METHOD,
        model=model,
        projection=None if projection is None else len(projection),
        text=text_tower(state, _about(file.about, "text_config")) if text else None,
    )
    return ConfigDict({"method": method}, sort_keys=False, convert_dict=False)


def text_tower(state: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> ConfigDict:
    """Return the text tower that fits the tensors of a file.

    Args:
      state: the tensors.
      about: what the file's config has about it.

    Raises:
      MismatchError: if the shapes are those of no text tower.
    """
    hidden = f"{clip.TEXT_PREFIX}encoder.layers.0.mlp.fc1.weight"
    positions = f"{clip.TEXT_PREFIX}embeddings.position_embedding.weight"
    check_axes(state, {clip.WORDS: 2, positions: 2, hidden: 2, "text_projection.weight": 2})
    vocabulary, width = state[clip.WORDS].shape
    return call(
        "models.text.transformer",
        vocabulary=vocabulary,
        length=len(state[positions]),
        width=width,
        size=len(state["text_projection.weight"]),
        depth=depth_of(state, f"{clip.TEXT_PREFIX}encoder.layers"),
        heads=checked_heads(about.get("num_attention_heads", max(width // HEAD, 1)), width),
        mlp_ratio=mlp_ratio(len(state[hidden]), width),
    )


def tower(**dims: Any) -> ConfigDict:
    """Return the model of an image tower of these dimensions, arguments of `models.variants.vit`."""
    return call(
        "models.variants.vit",
        frames=1,
        tubelet=1,
        positions=call("models.positions.learned"),
        prefix=1,
        prefix_positions=True,
        style="clip",
        mean=MEAN,
        std=STD,
        **dims,
    )


def params_of(file: tensors.File, one: Subject, template: Any) -> tuple[Any, dict[str, str]]:
    """Return our parameters of a file, and what was left out of it, with the reason.

    Args:
      file: the weights.
      one: the method that they are for.
      template: its parameters, for names and shapes.

    Raises:
      MismatchError: if it is another method, or the weights do not fit it.
    """
    node: Any = one.config.get("method")
    if node.call != METHOD or one.model is None:
        raise MismatchError(f"CLIP's layout is of {METHOD}, and the config has {node.call}")
    state, left_out = clip.split(file.state, text="text" in template)
    finite(state)
    return clip.read(state, one.facts, template), left_out


def _about(about: Mapping[str, Any], tower: str) -> Mapping[str, Any]:
    """The part of a config.json that is about a tower, "vision_config" or "text_config"; it has to fit the one here."""
    nested = about.get(tower)
    found = nested if isinstance(nested, Mapping) else about
    for name, value in ONLY.items():
        if found.get(name, value) != value:
            raise MismatchError(f"a CLIP with {name}={shown(found[name])}; only {value!r} is implemented")
    return found
