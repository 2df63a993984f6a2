"""The layout of V-JEPA's and V-JEPA 2's code: names of encoder and predictor for our parameters, in both directions.

A checkpoint has a state dict for each network: `encoder`, `target_encoder` and `predictor`. Queries, keys and values
have one matrix and one bias. Without rotary positions our keys have no bias, which the softmax cancels: it is left out
of files that have one, and written as zeros. Of mask tokens that training never uses, files have some more than we do.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vmae_jax.weights.layouts import rules
from vmae_jax.weights.layouts.rules import FUSED, TOKEN, MismatchError, Rule, Tower, linear, nested, norm
from vmae_jax.weights.layouts.videomae import Facts, fused_biases

__all__ = ["PREDICTOR", "is_vjepa", "read_network", "stripped", "write_network"]

BLOCK = [
    *norm("norm1", "norm1"),
    *norm("norm2", "norm2"),
    Rule("attention/qkv/kernel", "attn.qkv.weight", FUSED),
    *(Rule(f"attention/qkv/{letter}_bias", f"attn.{letter}_bias") for letter in "qkv"),
    *linear("attention/proj", "attn.proj"),
    *linear("mlp/fc1", "mlp.fc1"),
    *linear("mlp/fc2", "mlp.fc2"),
]
PREDICTOR = [
    *linear("project", "predictor_embed"),
    *nested("blocks", "predictor_blocks.{}", BLOCK),
    *norm("norm", "predictor_norm"),
    *linear("head_features", "predictor_proj"),
]
PREFIXES = ("module.", "backbone.")  # of files of several processes, and of the wrapper that masks
MASK_TOKEN = re.compile(r"mask_tokens\.\d+")
TABLES = {"pos_embed": "encoder", "predictor_pos_embed": "decoder"}
TOLERANCE = 1e-5  # of the fixed positions in a file


def is_vjepa(names: Any) -> bool:
    """Return whether these are the names of a predictor of V-JEPA's code."""
    return {"predictor_embed.weight", "predictor_proj.weight"} <= set(stripped(dict.fromkeys(names)))


def stripped(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return weights without the prefixes of their names."""
    found = {}
    for name, array in state.items():
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        found[name] = array
    return found


def read_network(state: Mapping[str, np.ndarray], facts: Facts, template: Any) -> tuple[Any, dict[str, str]]:
    """Return the parameters of an encoder or a predictor from its state dict.

    Args:
      state: under the official names, with or without prefixes.
      facts: of the model.
      template: our tree of that network, for names and shapes.

    Returns:
      the parameters, and what was left out of the file with the reason.

    Raises:
      MismatchError: if the weights do not fit the model, or its fixed positions are others.
    """
    found: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    keys = "k_bias" in template["blocks"]["attention"]["qkv"]
    used = _tokens(template)
    for name, array in stripped(state).items():
        if name.endswith("attn.qkv.bias"):
            stem = name.removesuffix("qkv.bias")
            q, k, v = np.split(array, 3)
            found |= {f"{stem}q_bias": q, f"{stem}v_bias": v} | ({f"{stem}k_bias": k} if keys else {})
            left_out |= {} if keys else {f"{name} (the keys' third)": "the softmax cancels it"}
        elif name in TABLES:
            left_out[name] = _positions(name, array, facts)
        elif MASK_TOKEN.fullmatch(name) and int(name.rpartition(".")[2]) >= used:
            left_out[name] = "a mask token that training never uses"
        else:
            found[name] = array
    return rules.from_state(found, [_tower(template, facts)], template), left_out


def write_network(params: Any, facts: Facts, *, tokens: int = 0) -> dict[str, np.ndarray]:
    """Return the official state dict of an encoder or a predictor.

    Args:
      params: of one network.
      facts: of the model.
      tokens: how many mask tokens a predictor has in the file; those that we do not have are zero.
    """
    state = fused_biases(rules.to_state(params, [_tower(params, facts)]))
    if "mask_token" in params:
        for number in range(_tokens(params), tokens):
            state[f"mask_tokens.{number}"] = np.zeros_like(state["mask_tokens.0"])
    name = "predictor_pos_embed" if "mask_token" in params else "pos_embed"
    if TABLES[name] in facts.tables:
        state[name] = facts.tables[TABLES[name]][None]
    return state


def _tower(tree: Any, facts: Facts) -> Tower:
    """The rules of an encoder, or of a predictor, which has a mask token."""
    if "mask_token" in tree:
        stacked = len(tree["mask_token"].shape) > 1
        return Tower("", "", [Rule("mask_token", "mask_tokens.{}" if stacked else "mask_tokens.0", TOKEN), *PREDICTOR])
    embed = Rule("embed/kernel", "patch_embed.proj.weight", rules.cubes(facts.patch, facts.channels))
    blocks = nested("blocks", "blocks.{}", BLOCK)
    return Tower("", "", [embed, Rule("embed/bias", "patch_embed.proj.bias"), *blocks, *norm("norm", "norm")])


def _tokens(tree: Any) -> int:
    """The number of mask tokens of a predictor; 0 of an encoder."""
    if "mask_token" not in tree:
        return 0
    shape = tree["mask_token"].shape
    return shape[0] if len(shape) > 1 else 1


def _positions(name: str, array: np.ndarray, facts: Facts) -> str:
    """Return why a table of positions is left out; raise MismatchError if it is not the model's."""
    table = facts.tables.get(TABLES[name])
    if table is None:
        return "the model has rotary positions"
    if array.shape != (1, *table.shape) or np.abs(array[0] - table).max() > TOLERANCE:
        raise MismatchError(f"{name} differs from the fixed positions of the model")
    return "the positions that the model computes"
