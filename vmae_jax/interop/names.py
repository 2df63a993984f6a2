"""Weights from anywhere under the official VideoMAE names, with an account of every tensor.

Understood: VideoMAE and VideoMAE V2 (also from MMAction2 and the V2 hub), transformers' VideoMAE
before and after version 5, image MAE, MAE-ST; with the prefixes that DDP, `torch.compile` and
backbones leave behind.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vmae_jax.interop import huggingface
from vmae_jax.interop.dims import kind_of
from vmae_jax.interop.tensors import File
from vmae_jax.interop.videomae import MismatchError

__all__ = ["K_BIAS", "Weights", "official"]

PREFIX = re.compile(r"^(?:(?:module|_orig_mod|backbone|model)\.)+")
MMACTION = (
    ("patch_embed.projection.", "patch_embed.proj."),
    (".mlp.layers.0.0.", ".mlp.fc1."),
    (".mlp.layers.1.", ".mlp.fc2."),
    ("cls_head.fc_cls.", "head."),
)
HUB = {"num_heads": "num_attention_heads", "num_frames": "num_frames", "img_size": "image_size"}
K_BIAS = "a bias of the keys adds the same to every logit of a query, which the softmax cancels"
OTHER_DECODER = "a decoder of another form: positions that are not separable, or other frames than the encoder's"
MAE_DECODER = (
    ("decoder_embed.weight", "encoder_to_decoder.weight"),
    ("decoder_blocks.", "decoder.blocks."),
    ("decoder_norm.", "decoder.norm."),
    ("decoder_pred.", "decoder.head."),
    ("decoder_pos_embed_", "decoder.pos_embed_"),
)


class Weights(NamedTuple):
    """Weights in the official names.

    Attributes:
      state: float arrays; pre-training and encoder weights have `encoder.` before the encoder's.
      kind: "pretraining", "classifier" or "encoder".
      family: "videomae", "huggingface", "mae" or "mae-st".
      dropped: tensors of the file that are of no use, by their own names, with the reason.
      about: what the file says of its model.
    """

    state: dict[str, np.ndarray]
    kind: str
    family: str
    dropped: dict[str, str]
    about: dict[str, Any]


def official(file: File) -> Weights:
    """The weights of a file in the official names.

    Raises:
      MismatchError: of no family that is known; a NaN; two tensors of one name.
    """
    state: dict[str, np.ndarray] = {}
    for name, array in file.state.items():
        short = PREFIX.sub("", name).replace("._orig_mod.", ".")
        if short in state:
            raise MismatchError(f"two tensors are called {short} once prefixes are taken off (one is {name})")
        if array.dtype.kind in "iub":
            continue
        state[short] = array
    dropped = {name: "whole numbers, no weights" for name, array in file.state.items() if array.dtype.kind in "iub"}
    family = _family(state)
    if family == "huggingface":
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
    return "videomae" if embed.ndim == 5 and not any(name.startswith("decoder_") for name in state) else "mae"


def _mmaction(name: str) -> str:
    for theirs, ours in MMACTION:
        name = name.replace(theirs, ours)
    return name


def _from_mae(state: Mapping[str, np.ndarray], dropped: dict[str, str]) -> dict[str, np.ndarray]:
    """MAE's and MAE-ST's weights; a class token has its position in it."""
    ours = {name: array for name, array in state.items() if not name.startswith("decoder_") and name != "mask_token"}
    theirs = {name: array for name, array in state.items() if name not in ours}
    if "cls_token" in ours:
        if "pos_embed" in ours:
            first, ours["pos_embed"] = np.split(ours["pos_embed"], [1], axis=1)
        else:
            first = ours.pop("pos_embed_class", 0.0)
        ours["cls_token"] = ours["cls_token"] + first
    if _same_decoder(state):
        return _prefixed(ours) | _decoder(theirs)
    dropped |= dict.fromkeys(theirs, OTHER_DECODER)
    return ours


def _same_decoder(state: Mapping[str, np.ndarray]) -> bool:
    """Whether the decoder is one of ours: separable positions, and a cube is predicted whole (HVM-1's)."""
    cube = state["patch_embed.proj.weight"]
    rows = state.get("decoder_pred.weight", np.empty(0)).shape[0]
    return "decoder_pos_embed_temporal" in state and cube.ndim == 5 and rows == cube[0].size


def _prefixed(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"encoder.{name}": array for name, array in state.items()}


def _decoder(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """MAE-ST's decoder. Ours projects without a bias: it goes into the positions, and out of the mask token."""
    rest = dict(state)
    bias = rest.pop("decoder_embed.bias")
    rest["mask_token"] = rest["mask_token"] - bias
    rest["decoder_pos_embed_temporal"] = rest["decoder_pos_embed_temporal"] + bias
    result = {}
    if "decoder_cls_token" in rest:
        token = rest.pop("decoder_cls_token") + rest.pop("decoder_pos_embed_class", 0.0)
        result["decoder.cls_token"] = token
    for name, array in rest.items():
        for before, after in MAE_DECODER:
            if name.startswith(before):
                name = after + name.removeprefix(before)
        result[name] = array
    return result


def _about(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says, with the V2 hub's `model_config` in transformers' terms."""
    hub = about.get("model_config")
    hub = hub if isinstance(hub, Mapping) else {}
    return dict(about) | {ours: hub[theirs] for theirs, ours in HUB.items() if theirs in hub}


def _fuse(state: Mapping[str, np.ndarray], dropped: dict[str, str]) -> dict[str, np.ndarray]:
    """One qkv matrix a block with q and v biases, whatever the file has."""
    result = dict(state)
    for name in state:
        if name.endswith("attn.q.weight"):
            stem = name.removesuffix("q.weight")
            parts = [f"{stem}{letter}.weight" for letter in "qkv"]
            absent = [part for part in parts if part not in state]
            if absent:
                raise MismatchError(f"{absent[0]} is missing from the weights")
            result[f"{stem}qkv.weight"] = np.concatenate([result.pop(part) for part in parts])
        elif name.endswith("attn.qkv.bias"):
            stem = name.removesuffix("qkv.bias")
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
