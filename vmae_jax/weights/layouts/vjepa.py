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
from vmae_jax.weights.layouts.dims import mlp_ratio
from vmae_jax.weights.layouts.rules import FUSED, TOKEN, MismatchError, Rule, Tower, linear, nested, norm
from vmae_jax.weights.layouts.videomae import Facts, fused_biases

__all__ = [
    "PREFIXES",
    "config_of_transformers",
    "facts_of_transformers",
    "from_transformers",
    "is_transformers",
    "is_vjepa",
    "read_network",
    "stripped",
    "to_transformers",
    "write_network",
]

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
# V-JEPA 2.1's predictor, which reduces the encoder's levels first, and predicts visible tokens as well.
DENSE = [
    *linear("fuse", "predictor_embed.0"),
    *linear("project", "predictor_embed.2"),
    *PREDICTOR[2:],
    *linear("head_context", "predictor_proj_context"),
    Rule("modality", "video_mod_embed", TOKEN),
    Rule("image/predictor_modality", "img_mod_embed", TOKEN),
]
PREFIXES = ("module.", "backbone.")  # of files of several processes, and of the wrapper that masks
MASK_TOKEN = re.compile(r"mask_tokens\.\d+")
# The names of transformers' V-JEPA 2, whose queries, keys and values are apart, for the official ones.
TRANSFORMERS = {
    "encoder": {
        "embeddings.patch_embeddings.proj.": "patch_embed.proj.",
        "layer.": "blocks.",
        "layernorm.": "norm.",
    },
    "predictor": {
        "embeddings.predictor_embeddings.": "predictor_embed.",
        "layer.": "predictor_blocks.",
        "layernorm.": "predictor_norm.",
        "proj.": "predictor_proj.",
    },
}
STACKED = "predictor.embeddings.mask_tokens"  # all mask tokens, [n 1 1 width]
PARTS = ("query", "key", "value")
TABLES = {"pos_embed": "encoder", "predictor_pos_embed": "decoder"}
TOLERANCE = 1e-5  # of the fixed positions in a file


def is_vjepa(names: Any) -> bool:
    """Return whether these are the names of a predictor of V-JEPA's code."""
    found = set(stripped(dict.fromkeys(names)))
    return "predictor_proj.weight" in found and not found.isdisjoint(
        ("predictor_embed.weight", "predictor_embed.0.weight")
    )


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


def is_transformers(names: Any) -> bool:
    """Return whether these are the names of transformers' V-JEPA 2 with its predictor."""
    return STACKED in names and "encoder.embeddings.patch_embeddings.proj.weight" in names


def from_transformers(state: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Return encoder and predictor under the official names.

    Raises:
      MismatchError: if a name is unknown, or one of query, key and value is absent.
    """
    found: dict[str, dict[str, np.ndarray]] = {"encoder": {}, "predictor": {}}
    for name, array in state.items():
        network, _, rest = name.partition(".")
        if name == STACKED:
            found[network] |= {f"mask_tokens.{i}": token for i, token in enumerate(array)}
        elif ".attention.query." in rest:
            parts = [rest.replace(".attention.query.", f".attention.{part}.") for part in PARTS]
            absent = [part for part in parts if f"{network}.{part}" not in state]
            if absent:
                raise MismatchError(f"{network}.{absent[0]} is missing from the weights")
            fused = np.concatenate([state[f"{network}.{part}"] for part in parts])
            found[network][_official(network, rest.replace(".attention.query.", ".attn.qkv."))] = fused
        elif not any(f".attention.{part}." in rest for part in PARTS):
            found.setdefault(network, {})[_official(network, rest).replace(".attention.", ".attn.")] = array
    if set(found) != set(TRANSFORMERS):
        raise MismatchError(f"the model has no place for {next(name for name in found if name not in TRANSFORMERS)}.…")
    return found


def to_transformers(encoder: Mapping[str, np.ndarray], predictor: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the networks under transformers' names."""
    found: dict[str, np.ndarray] = {}
    for network, state in (("encoder", encoder), ("predictor", predictor)):
        names = {theirs: ours for ours, theirs in TRANSFORMERS[network].items()}
        for name, array in state.items():
            start = next((one for one in sorted(names, key=len, reverse=True) if name.startswith(one)), None)
            if start is None:
                continue  # a mask token
            ours = f"{network}.{names[start]}{name.removeprefix(start)}"
            if ".attn.qkv." in ours:
                for part, one in zip(PARTS, np.split(array, 3), strict=True):
                    found[ours.replace(".attn.qkv.", f".attention.{part}.")] = one
            else:
                found[ours.replace(".attn.", ".attention.")] = array
    found[STACKED] = np.stack([predictor[f"mask_tokens.{i}"] for i in range(sum(map(_is_token, predictor)))])
    return found


def facts_of_transformers(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the shapes of the weights do not show, from transformers' config."""
    names = {
        "num_frames": "frames_per_clip",
        "image_size": "crop_size",
        "num_attention_heads": "num_attention_heads",
        "predictor_num_attention_heads": "pred_num_attention_heads",
    }
    return {"rotary": True} | {ours: about[theirs] for ours, theirs in names.items() if theirs in about}


def config_of_transformers(model: Any, *, tokens: int, dtype: str) -> dict[str, Any]:
    """Return the config.json of transformers' V-JEPA 2 for a model.

    Args:
      model: `models.variants.Model`.
      tokens: how many mask tokens the file has.
      dtype: of the tensors.
    """
    t, h, _, channels = model.video_shape
    blocks, below, narrow = model.encoder.blocks, model.decoder["blocks"], model.decoder["width"]
    return {
        "architectures": ["VJEPA2Model"],
        "model_type": "vjepa2",
        "patch_size": model.patch.h,
        "crop_size": h,
        "frames_per_clip": t,
        "tubelet_size": model.patch.t,
        "in_chans": channels,
        "hidden_size": model.encoder.width,
        "num_attention_heads": blocks["heads"],
        "num_hidden_layers": blocks["depth"],
        "mlp_ratio": mlp_ratio(blocks["hidden"], model.encoder.width),
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "hidden_act": "gelu",
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "pred_hidden_size": narrow,
        "pred_num_attention_heads": below["heads"],
        "pred_num_hidden_layers": below["depth"],
        "pred_num_mask_tokens": tokens,
        "pred_zero_init_mask_tokens": True,
        "pred_mlp_ratio": mlp_ratio(below["hidden"], narrow),
        "torch_dtype": dtype,
    }


def _is_token(name: str) -> bool:
    return MASK_TOKEN.fullmatch(name) is not None


def _official(network: str, name: str) -> str:
    for theirs, ours in TRANSFORMERS[network].items() if network in TRANSFORMERS else ():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    raise MismatchError(f"the model has no place for {network}.{name}")


def _tower(tree: Any, facts: Facts) -> Tower:
    """The rules of an encoder, or of a predictor, which has a mask token; "image" in it is what images have apart."""
    if "mask_token" in tree:
        stacked = len(tree["mask_token"].shape) > 1
        token = Rule("mask_token", "mask_tokens.{}" if stacked else "mask_tokens.0", TOKEN)
        return Tower("", "", [token, *(DENSE if "fuse" in tree else PREDICTOR)])
    image = facts.patch._replace(t=1)
    levels = [rule for i in range(len(tree)) for rule in norm(f"norm_{i}", f"norms_block.{i}")]
    own = [
        Rule("embed/kernel", "patch_embed.proj.weight", rules.cubes(facts.patch, facts.channels)),
        Rule("embed/bias", "patch_embed.proj.bias"),
        Rule("modality", "video_mod_embed", TOKEN),
        Rule("image/embed/kernel", "patch_embed_img.proj.weight", rules.cubes(image, facts.channels)),
        Rule("image/embed/bias", "patch_embed_img.proj.bias"),
        Rule("image/modality", "img_mod_embed", TOKEN),
    ]
    return Tower("", "", [*own, *nested("blocks", "blocks.{}", BLOCK), *norm("norm", "norm"), *levels])


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
