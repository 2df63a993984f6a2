"""The layout of the official VideoMAE and VideoMAE V2 code: its names for our parameters, in both directions.

Pre-training has `encoder.…`, `decoder.…`, `mask_token`, `encoder_to_decoder.weight`; a classifier `patch_embed.…`,
`blocks.…`, `fc_norm.…`, `head.…`. Class tokens and learned positions, which only MAE, MAE-ST and the fine-tuning code
have, are here under their names there. Other layouts are translated to these names (`names`, `huggingface`, `mae`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vmae_jax.patches import Patch
from vmae_jax.weights.layouts import rules
from vmae_jax.weights.layouts.rules import (
    FUSED,
    TABLE,
    TEMPERATURE,
    TOKEN,
    Rule,
    Tower,
    linear,
    nested,
    norm,
)

__all__ = ["BLOCK", "Facts", "from_official", "fused_biases", "paths", "to_official", "towers"]

BLOCK = [
    *norm("norm1", "norm1"),
    *norm("norm2", "norm2"),
    Rule("attention/qkv/kernel", "attn.qkv.weight", FUSED),
    Rule("attention/qkv/q_bias", "attn.q_bias"),
    Rule("attention/qkv/v_bias", "attn.v_bias"),
    *linear("attention/proj", "attn.proj"),
    *linear("mlp/fc1", "mlp.fc1"),
    *linear("mlp/fc2", "mlp.fc2"),
    Rule("attention/logit_scale", "attn.scale", TEMPERATURE),  # of cosine attention
    Rule("scale1/gamma", "gamma_1"),  # of layer scale
    Rule("scale2/gamma", "gamma_2"),
]
# Learned positions: a table, or places and times. The fixed ones are computed and are no weights.
PLACES = [
    Rule("Learned_0/table", "pos_embed", TABLE),
    Rule("Separable_0/space_table", "pos_embed_spatial", TABLE),
    Rule("Separable_0/time_table", "pos_embed_temporal", TABLE),
    Rule("prefix_token", "cls_token", TABLE),
    Rule("prefix_position", "pos_embed_class", TABLE),  # absent where it is in the token
]
HEAD = [*norm("fc_norm", "fc_norm"), *linear("head", "head")]


@dataclasses.dataclass(frozen=True)
class Facts:
    """The facts of a model that a conversion needs besides the shapes of its parameters.

    Attributes:
      patch: the size of a cube, for the patch embedding.
      channels: of the video.
      heads, decoder_heads: of the attention, which no array shows.
      head: the decoder's head that predicts pixels.
      tables: positions [n width] that a tower ("encoder", "decoder") computes; none where it learns them.
      keeps_prefix: whether the decoder has the encoder's class token (MAE) and not one of its own.
      image: whether the model is of MAE's form: clips of one frame, and a class token.
    """

    patch: Patch
    channels: int
    heads: int
    decoder_heads: int = 0
    head: str = "head_pixels"
    tables: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, compare=False)
    keeps_prefix: bool = False
    image: bool = False


def towers(tree: Any, facts: Facts) -> list[Tower]:
    """Return the towers of a pre-training model, of its encoder alone, or of a classifier."""
    classifier = "head" in tree
    prefix = "" if classifier else "encoder."
    encoder = [
        Rule("embed/kernel", "patch_embed.proj.weight", rules.cubes(facts.patch, facts.channels)),
        Rule("embed/bias", "patch_embed.proj.bias"),
        *nested("blocks", "blocks.{}", BLOCK),
        *PLACES,
        *([] if classifier else norm("norm", "norm")),
    ]
    decoder = [*nested("blocks", "blocks.{}", BLOCK), *norm("norm", "norm"), *PLACES, *linear(facts.head, "head")]
    between = [*linear("project", "encoder_to_decoder"), Rule("mask_token", "mask_token", TOKEN)]
    if classifier:
        return [Tower("encoder", "", encoder), Tower("", "", HEAD)]
    return [Tower("encoder", prefix, encoder), Tower("decoder", "", between), Tower("decoder", "decoder.", decoder)]


def from_official(state: Mapping[str, np.ndarray], facts: Facts, template: Any) -> Any:
    """Return our parameters from an official state dict; see `rules.from_state`."""
    return rules.from_state(state, towers(template, facts), template)


def to_official(params: Any, facts: Facts) -> dict[str, np.ndarray]:
    """Return the official state dict of our parameters (PyTorch's names, order of axes and shapes)."""
    return rules.to_state(params, towers(params, facts))


def fused_biases(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return weights with one bias of q, k and v in each block, as MAE's code has it; zeros where keys have none."""
    result = dict(state)
    for name in state:
        if name.endswith("attn.q_bias"):
            stem = name.removesuffix("q_bias")
            q, v = result.pop(name), result.pop(f"{stem}v_bias")
            result[f"{stem}qkv.bias"] = np.concatenate([q, result.pop(f"{stem}k_bias", np.zeros_like(q)), v])
    return result


def paths(params: Any, facts: Facts) -> set[str]:
    """Return the parameters that have an official name, "encoder/embed/kernel"."""
    return rules.paths(params, towers(params, facts))
