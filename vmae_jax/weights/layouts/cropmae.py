"""The layout of CropMAE's code, which has SiamMAE too: its names for our parameters, in both directions.

The encoder has MAE's names. Each block of the decoder has the names of a PyTorch decoder layer: queries, keys and
values of an attention are one matrix, with one bias. Ours are three matrices, and the keys have no bias, which the
softmax cancels; written files have zeros there.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vmae_jax.weights.layouts import rules
from vmae_jax.weights.layouts.rules import TABLE, TOKEN, MismatchError, Rule, Tower, linear, nested, norm
from vmae_jax.weights.layouts.videomae import BLOCK, Facts, fused_biases

__all__ = ["from_cropmae", "is_cropmae", "stripped", "to_cropmae"]

ATTENTIONS = {"attention": "self_attn", "cross_attention": "multihead_attn"}
NORMS = {"norm_own": "norm1", "norm_cross": "norm2", "norm_mlp": "norm3"}
PREFIX = "module."  # of files of several processes
PARTS = ("query", "key", "value")
POSITIONS = {"pos_embed": "encoder", "decoder_pos_embed": "decoder"}
TOLERANCE = 1e-5  # of the fixed positions in a file


def is_cropmae(state: Mapping[str, np.ndarray]) -> bool:
    """Return whether these are names of CropMAE's code, its decoder among them."""
    return any(name.endswith(".multihead_attn.in_proj_weight") for name in state)


def stripped(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights without the prefix of files that several processes wrote."""
    return {name.removeprefix(PREFIX): array for name, array in state.items()}


def _layer() -> list[Rule]:
    """The rules of a block of the decoder, its attentions' matrices apart."""
    found = [*linear("fc1", "linear1"), *linear("fc2", "linear2")]
    for ours, theirs in NORMS.items():
        found += norm(ours, theirs)
    for ours, theirs in ATTENTIONS.items():
        for part in PARTS:
            found += linear(f"{ours}/{part}", f"{theirs}.{part}")
        found += linear(f"{ours}/proj", f"{theirs}.out_proj")
    return found


def _towers(facts: Facts) -> list[Tower]:
    encoder = [
        Rule("embed/kernel", "patch_embed.proj.weight", rules.cubes(facts.patch, facts.channels)),
        Rule("embed/bias", "patch_embed.proj.bias"),
        Rule("prefix_token", "cls_token", TABLE),
        *nested("blocks", "blocks.{}", BLOCK),
        *norm("norm", "norm"),
    ]
    decoder = [
        *linear("project", "decoder_embed"),
        Rule("mask_token", "mask_token", TOKEN),
        *nested("blocks", "decoder_blocks.{}", _layer()),
        *norm("norm", "decoder_norm"),
        *linear(facts.head, "decoder_pred"),
    ]
    return [Tower("encoder", "", encoder), Tower("decoder", "", decoder)]


def from_cropmae(state: Mapping[str, np.ndarray], facts: Facts, template: Any) -> Any:
    """Return our parameters from a state dict of CropMAE's code.

    Args:
      state: under its names; the biases of keys and the fixed positions are left out.
      facts: of the model.
      template: our tree, for names and shapes.

    Raises:
      MismatchError: if the weights do not fit the model, or its fixed positions are others.
    """
    found: dict[str, np.ndarray] = {}
    for name, array in state.items():
        if name in POSITIONS:
            _check_positions(name, array, facts)
        elif name.endswith((".in_proj_weight", ".in_proj_bias")):
            stem, _, kind = name.rpartition(".in_proj_")
            if len(array) % len(PARTS):
                raise MismatchError(f"{name} has {len(array)} rows, which is not three times a width")
            found |= {f"{stem}.{part}.{kind}": one for part, one in zip(PARTS, np.split(array, 3), strict=True)}
            found.pop(f"{stem}.key.bias", None)
        elif name.endswith(".attn.qkv.bias"):
            stem = name.removesuffix("qkv.bias")
            found[f"{stem}q_bias"], _, found[f"{stem}v_bias"] = np.split(array, 3)
        else:
            found[name] = array
    return rules.from_state(found, _towers(facts), template)


def to_cropmae(params: Any, facts: Facts) -> dict[str, np.ndarray]:
    """Return the state dict of CropMAE's code of our parameters, with zeros as the biases of keys."""
    found = fused_biases(rules.to_state(params, _towers(facts)))
    for name in list(found):
        if name.endswith(".query.weight"):
            stem = name.removesuffix(".query.weight")
            biases = [found.pop(f"{stem}.{part}.bias", None) for part in PARTS]
            found[f"{stem}.in_proj_weight"] = np.concatenate([found.pop(f"{stem}.{part}.weight") for part in PARTS])
            zeros = np.zeros(len(found[f"{stem}.in_proj_weight"]) // len(PARTS), np.float32)
            found[f"{stem}.in_proj_bias"] = np.concatenate([zeros if one is None else one for one in biases])
    found["patch_embed.proj.weight"] = found["patch_embed.proj.weight"][:, :, 0]
    for name, tower in POSITIONS.items():
        if tower in facts.tables:
            table = facts.tables[tower]
            found[name] = np.concatenate([np.zeros_like(table[:1]), table])[None]
    return found


def _check_positions(name: str, array: np.ndarray, facts: Facts) -> None:
    """Raise MismatchError if fixed positions, the class token's row of zeros before them, are not the model's."""
    table = facts.tables.get(POSITIONS[name])
    if table is None or array.shape != (1, len(table) + 1, table.shape[1]):
        wanted = "learned positions" if table is None else f"shape {[1, len(table) + 1, table.shape[1]]}"
        raise MismatchError(f"{name} has shape {list(array.shape)}; the model has {wanted}")
    if np.abs(array[0] - np.concatenate([np.zeros_like(table[:1]), table])).max() > TOLERANCE:
        raise MismatchError(f"{name} differs from the fixed positions of the model")
