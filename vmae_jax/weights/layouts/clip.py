"""The layout of CLIP in transformers: names of the parameters of its image tower and of its text tower for ours.

Queries, keys and values are apart there. The first row of the table of positions is that of the class token.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vmae_jax.weights.layouts.names import K_BIAS
from vmae_jax.weights.layouts.rules import (
    FUSED,
    MATRIX,
    Conversion,
    MismatchError,
    Rule,
    Tower,
    cubes,
    from_state,
    linear,
    nested,
    norm,
)
from vmae_jax.weights.layouts.videomae import Facts

__all__ = ["has_text", "is_clip", "read", "split"]

PREFIX, TEXT_PREFIX = "vision_model.", "text_model."
CLASS = "embeddings.class_embedding"
TABLE = "embeddings.position_embedding.weight"
WORDS = f"{TEXT_PREFIX}embeddings.token_embedding.weight"
TEXT = "of the text tower"
TEMPERATURE = "CLIP's own temperature, which nothing here reads"
ROW = Conversion(lambda a, shape: a.reshape(shape), lambda a: a.reshape(-1))
BLOCK = [
    *norm("norm1", "layer_norm1"),
    *norm("norm2", "layer_norm2"),
    Rule("attention/qkv/kernel", "self_attn.qkv.weight", FUSED),
    *(Rule(f"attention/qkv/{letter}_bias", f"self_attn.{letter}_proj.bias") for letter in "qv"),
    *linear("attention/proj", "self_attn.out_proj"),
    *linear("mlp/fc1", "mlp.fc1"),
    *linear("mlp/fc2", "mlp.fc2"),
]


def is_clip(names: Any) -> bool:
    """Return whether these are the names of a CLIP with an image tower."""
    return PREFIX + CLASS in names


def has_text(names: Any) -> bool:
    """Return whether these names are also those of a text tower with its projection."""
    return WORDS in names and "text_projection.weight" in names


def split(state: Mapping[str, np.ndarray], *, text: bool) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the tensors without the prefix of the image tower, and what was left out, with the reason.

    Args:
      state: the tensors of a file.
      text: whether the text tower is wanted.
    """
    found: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for name, array in state.items():
        short = name.removeprefix(PREFIX)
        if name.startswith("logit_scale"):
            left_out[name] = TEMPERATURE
        elif name.startswith((TEXT_PREFIX, "text_projection.")) and not text:
            left_out[name] = TEXT
        elif array.dtype.kind in "iub":
            left_out[name] = "whole numbers, no weights"
        elif re.fullmatch(rf"({TEXT_PREFIX})?encoder\.layers\.\d+\.self_attn\.k_proj\.bias", short):
            left_out[name] = K_BIAS
        elif short in found:
            raise MismatchError(f"two tensors are called {short}")
        else:
            found[short] = np.asarray(array, np.float32)
    return found, left_out


def read(state: Mapping[str, np.ndarray], facts: Facts, template: Any) -> Any:
    """Return our parameters of an image tower and perhaps a text tower.

    Args:
      state: the tensors of `split`.
      facts: of the image tower.
      template: {"encoder": …} and perhaps "projection" and "text", for names and shapes.

    Raises:
      MismatchError: if the weights do not fit the model.
    """
    own = [
        Rule("prefix_token", CLASS, ROW),
        Rule("prefix_position", "embeddings.position_embedding.first", ROW),
        Rule("Learned_0/table", "embeddings.position_embedding.others"),
        Rule("embed/kernel", "embeddings.patch_embedding.weight", cubes(facts.patch, facts.channels)),
        *norm("first_norm", "pre_layrnorm"),
        *nested("blocks", "encoder.layers.{}", BLOCK),
        *norm("norm", "post_layernorm"),
    ]
    projection = [Rule("kernel", "visual_projection.weight", MATRIX)]
    text = [
        Rule("tokens", WORDS),
        Rule("positions", f"{TEXT_PREFIX}embeddings.position_embedding.weight"),
        *nested("blocks", f"{TEXT_PREFIX}encoder.layers.{{}}", BLOCK),
        *norm("norm", f"{TEXT_PREFIX}final_layer_norm"),
        Rule("projection/kernel", "text_projection.weight", MATRIX),
    ]
    towers = [Tower("encoder", "", own), Tower("projection", "", projection), Tower("text", "", text)]
    return from_state(_fused(state), towers, template)


def _fused(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One matrix of queries, keys and values for each block, and the positions apart from that of the class token."""
    found = dict(state)
    for name in state:
        if name.endswith("self_attn.q_proj.weight"):
            stem = name.removesuffix("q_proj.weight")
            parts: list[Any] = [found.pop(f"{stem}{letter}_proj.weight", None) for letter in "qkv"]
            if any(part is None or part.shape != state[name].shape for part in parts):
                raise MismatchError(f"the weights of queries, keys and values of {stem}* do not go together")
            found[f"{stem}qkv.weight"] = np.concatenate(parts)
    if TABLE in found:
        table = found.pop(TABLE)
        found |= {"embeddings.position_embedding.first": table[:1], "embeddings.position_embedding.others": table[1:]}
    return found
