"""Weights of any known family under the official VideoMAE names, with a record of every tensor.

The families are VideoMAE and VideoMAE V2 (also from MMAction2 and the V2 hub), transformers' VideoMAE
before and after version 5 and ViT-MAE, image MAE, MAE-ST; with the prefixes of DDP, `torch.compile` and
backbones.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vmae_jax.weights.formats.checks import shown
from vmae_jax.weights.formats.tensors import File
from vmae_jax.weights.layouts import huggingface, vit_mae
from vmae_jax.weights.layouts.dims import kind_of
from vmae_jax.weights.layouts.rules import MismatchError

__all__ = ["K_BIAS", "Weights", "official"]

PREFIX = re.compile(r"^(?:(?:module|_orig_mod|backbone|model)\.)+")
MMACTION = (
    ("patch_embed.projection.", "patch_embed.proj."),
    (".mlp.layers.0.0.", ".mlp.fc1."),
    (".mlp.layers.1.", ".mlp.fc2."),
    ("cls_head.fc_cls.", "head."),
)
# Number of axes of tensors in every family, by the ends of their names.
AXES = (
    (re.compile(r"(norm\w*\.weight|[._]bias|\.gamma_\d)$"), (1,)),
    (
        re.compile(r"(qkv|\.[qkv]|query|key|value|fc[12]|dense|head|classifier|pred|_to_decoder|attn\.proj)\.weight$"),
        (2,),
    ),
    (re.compile(r"patch_embed\w*\.proj(ection)?\.weight$"), (4, 5)),
    (re.compile(r"(pos_embed\w*|_token|attn\.scale)$"), (3,)),
)
HUB = {"num_heads": "num_attention_heads", "num_frames": "num_frames", "img_size": "image_size"}


def _whole(limit: int) -> tuple[Callable[[Any], bool], str]:
    return lambda value: type(value) is int and 0 < value <= limit, f"a whole number from 1 to {limit}"


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 64 and all(map(_number, value))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= 1e6  # which a NaN is not


def _size(value: Any) -> bool:
    sides = value if isinstance(value, list) else [value]
    return 0 < len(sides) <= 2 and all(map(_whole(1 << 14)[0], sides))


# The used entries of a file's own config: a check of the value, and a description of valid ones.
FLAG = (lambda value: isinstance(value, bool), "true or false")
LIST = (_numbers, "a list of numbers")
ABOUT: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_attention_heads": _whole(1024),
    "decoder_num_attention_heads": _whole(1024),
    "num_frames": _whole(1 << 14),
    "tubelet_size": _whole(1 << 10),
    "image_size": (_size, f"one whole number or two, from 1 to {1 << 14},"),
    "norm_pix_loss": FLAG,
    "qkv_bias": FLAG,
    "qv_bias": FLAG,
    "hidden_act": (lambda value: isinstance(value, str), "a name"),
    "layer_norm_eps": (_number, "a number"),
    "image_mean": LIST,
    "image_std": LIST,
}
K_BIAS = "a bias of the keys adds the same to every logit of a query, which the softmax cancels"
PARTIAL_DECODER = "part of a decoder, whose other tensors are not in the file"
MAE_DECODER = (
    ("decoder_embed.", "encoder_to_decoder."),
    ("decoder_blocks.", "decoder.blocks."),
    ("decoder_norm.", "decoder.norm."),
    ("decoder_pred.", "decoder.head."),
    ("decoder_pos_embed", "decoder.pos_embed"),
    ("decoder_cls_token", "decoder.cls_token"),
)


class Weights(NamedTuple):
    """Weights in the official names.

    Attributes:
      state: float arrays; pre-training and encoder weights have `encoder.` before the encoder's.
      kind: "pretraining", "classifier" or "encoder".
      family: "videomae", "huggingface", "mae" or "mae-st".
      dropped: unused tensors of the file, by their own names, with the reason.
      about: description of the model in the file.
    """

    state: dict[str, np.ndarray]
    kind: str
    family: str
    dropped: dict[str, str]
    about: dict[str, Any]


def official(file: File) -> Weights:
    """Return the weights of a file in the official names.

    Raises:
      MismatchError: if the family is unknown, a value is not finite, or two tensors have one name.
    """
    state: dict[str, np.ndarray] = {}
    for name, array in file.state.items():
        short = PREFIX.sub("", name).replace("._orig_mod.", ".")
        if short in state:
            raise MismatchError(f"two tensors are called {short} once prefixes are taken off (one is {name})")
        if array.dtype.kind in "iub":
            continue
        _check_axes(name, array)
        state[short] = array
    dropped = {name: "whole numbers, no weights" for name, array in file.state.items() if array.dtype.kind in "iub"}
    family = "mae" if vit_mae.is_vit_mae(state) else _family(state)
    if vit_mae.is_vit_mae(state):
        state = vit_mae.from_names(state)
    elif family == "huggingface":
        state = huggingface.from_names(state)
    else:
        state = {_mmaction(name): array for name, array in state.items()}
    if family in ("mae", "mae-st"):
        state = _from_mae(state, dropped)
    if kind_of(state) == "encoder":
        state = {f"encoder.{name.removeprefix('encoder.')}": array for name, array in state.items()}
    elif kind_of(state) == "classifier":
        state = {name.removeprefix("encoder."): array for name, array in state.items()}
    state = _fuse(state, dropped)
    _finite(state)
    return Weights(state, kind_of(state), family, dropped, _about(file.about))


def _check_axes(name: str, array: np.ndarray) -> None:
    """Raise MismatchError if a tensor has other axes than its name requires in every family."""
    for pattern, axes in AXES:
        if pattern.search(name) and (array.ndim not in axes or not array.size):
            wanted = " or ".join(map(str, axes))
            raise MismatchError(f"{name} has shape {list(array.shape)}; {wanted} axes, none of length 0, are needed")


def _family(state: Mapping[str, np.ndarray]) -> str:
    if any("embeddings.patch_embeddings.projection." in name for name in state):
        return "huggingface"
    embed = next((array for name, array in state.items() if _mmaction(name).endswith("patch_embed.proj.weight")), None)
    if embed is None or not any("blocks.0." in name for name in state):
        some = ", ".join(list(state)[:3]) or "nothing"
        raise MismatchError(
            f"weights of another family: neither VideoMAE, nor MAE, nor MAE-ST (they begin with {some})"
        )
    if any(name.endswith(("attn.q.weight", "pos_embed_spatial")) for name in state):
        return "mae-st"
    if "cls_token" in state:
        return "mae"
    return "videomae" if embed.ndim == 5 and not any(name.startswith("decoder_") for name in state) else "mae"


def _mmaction(name: str) -> str:
    for theirs, ours in MMACTION:
        name = name.replace(theirs, ours)
    return name


def _from_mae(state: Mapping[str, np.ndarray], dropped: dict[str, str]) -> dict[str, np.ndarray]:
    """Return the weights of MAE or MAE-ST, with the position of a class token as `pos_embed_class`."""
    theirs = {name for name in state if name.startswith("decoder_") or name == "mask_token"}
    apart = dict(state)
    for before in ("", "decoder_"):
        # MAE's decoder decodes the encoder's class token, which has a row of its own in this table, too.
        if "cls_token" in state and f"{before}pos_embed" in state:
            first, rest = np.split(state[f"{before}pos_embed"], [1], axis=1)
            apart[f"{before}pos_embed_class"], apart[f"{before}pos_embed"] = first, rest
    ours = {name: array for name, array in apart.items() if not (name.startswith("decoder_") or name == "mask_token")}
    if "decoder_pred.weight" not in state:
        dropped |= dict.fromkeys(theirs, PARTIAL_DECODER)
        return ours
    absent = [name for name in ("decoder_embed.bias", "mask_token") if name not in state]
    if absent:
        raise MismatchError(f"{absent[0]} is missing from the weights")
    decoder = {_decoder_name(name): array for name, array in apart.items() if name not in ours}
    return {f"encoder.{name}": array for name, array in ours.items()} | decoder


def _decoder_name(name: str) -> str:
    for before, after in MAE_DECODER:
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def _about(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the used entries of a file's own config, with the V2 hub's `model_config` in transformers' terms.

    Raises:
      MismatchError: if one of them has a value that no model has.
    """
    hub = about.get("model_config")
    hub = hub if isinstance(hub, Mapping) else {}
    entries = dict(about) | {ours: hub[theirs] for theirs, ours in HUB.items() if theirs in hub}
    for name, (allowed, text) in ABOUT.items():
        if name in entries and not allowed(entries[name]):
            raise MismatchError(f"the weights' own config has {name}={shown(entries[name])}, where {text} is needed")
    return {name: entries[name] for name in ABOUT if name in entries}


def _fuse(state: Mapping[str, np.ndarray], dropped: dict[str, str]) -> dict[str, np.ndarray]:
    """Return the weights with one qkv matrix per block, with q and v biases, from any form in the file."""
    result = dict(state)
    for name in state:
        if name.endswith("attn.q.weight"):
            stem = name.removesuffix("q.weight")
            parts = [f"{stem}{letter}.weight" for letter in "qkv"]
            absent = [part for part in parts if part not in state]
            if absent:
                raise MismatchError(f"{absent[0]} is missing from the weights")
            if len({state[part].shape for part in parts}) > 1:
                raise MismatchError(f"{', '.join(parts)} have different shapes")
            result[f"{stem}qkv.weight"] = np.concatenate([result.pop(part) for part in parts])
        elif name.endswith("attn.qkv.bias"):
            stem = name.removesuffix("qkv.bias")
            if len(state[name]) % 3:
                raise MismatchError(f"{name} has {len(state[name])} values, which is not three times a width")
            result[f"{stem}q_bias"], _, result[f"{stem}v_bias"] = np.split(result.pop(name), 3)
            dropped[f"{name} (the keys' third)"] = K_BIAS
        elif re.search(r"attn\.[qv]\.bias$", name):
            result[re.sub(r"\.bias$", "_bias", name)] = result.pop(name)
        elif re.search(r"attn\.(k\.bias|k_bias)$", name):
            dropped[name] = K_BIAS
            result.pop(name)
    return result


def _finite(state: Mapping[str, np.ndarray]) -> None:
    for name, array in state.items():
        bad = int(array.size - np.isfinite(array.astype(np.float32)).sum())
        if bad:
            raise MismatchError(f"{name} has {bad} values that are not finite")
