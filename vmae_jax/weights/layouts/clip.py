"""The layout of CLIP's image tower in transformers: names of its parameters for ours.

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

__all__ = ["is_clip", "read", "split"]

PREFIX = "vision_model."
CLASS = "embeddings.class_embedding"
TABLE = "embeddings.position_embedding.weight"
TEXT = "of the text tower"
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


def split(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the tensors of the image tower without their prefix, and what was left out, with the reason."""
    found: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for name, array in state.items():
        short = name.removeprefix(PREFIX)
        if name.startswith(("text_model.", "text_projection.", "logit_scale")):
            left_out[name] = TEXT
        elif array.dtype.kind in "iub":
            left_out[name] = "whole numbers, no weights"
        elif re.fullmatch(r"encoder\.layers\.\d+\.self_attn\.k_proj\.bias", short):
            left_out[name] = K_BIAS
        elif short in found:
            raise MismatchError(f"two tensors are called {short}")
        else:
            found[short] = np.asarray(array, np.float32)
    return found, left_out


def read(state: Mapping[str, np.ndarray], facts: Facts, template: Any) -> Any:
    """Return our parameters of an image tower.

    Args:
      state: the tensors of `split`.
      facts: of the model.
      template: {"encoder": …} and perhaps {"projection": …}, for names and shapes.

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
    return from_state(_fused(state), [Tower("encoder", "", own), Tower("projection", "", projection)], template)


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
