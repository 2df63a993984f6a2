"""The layout of VideoMAE in Hugging Face `transformers`, in terms of the official names.

What transformers cannot represent is refused, never dropped: cosine attention, layer scale, and
positions other than the fixed 1-D sinusoid.

The biases of attention have two spellings. Up to 5.5.0 the model has `q_bias` and `v_bias`; since 5.5.1
it has `query.bias` and `value.bias` (and `key.bias` up to 5.17), and only 5.18 and later also read the
old names. A file with the old names alone opens with zero biases in 5.5.1 to 5.17, one with the new
names alone with arbitrary biases before, and both only warn. So exports have both.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vmae_jax.weights.layouts.dims import Dims
from vmae_jax.weights.layouts.rules import MismatchError

__all__ = [
    "ARCHITECTURES",
    "IMAGENET",
    "as_text",
    "config",
    "from_names",
    "is_spelling",
    "network",
    "preprocessor",
    "to_state",
]

ARCHITECTURES = {
    "pretraining": "VideoMAEForPreTraining",
    "classifier": "VideoMAEForVideoClassification",
    "encoder": "VideoMAEModel",
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # what its pre-training loss undoes
# Official name -> transformers' name, without the prefixes of encoder and classifier.
TOP = {
    "patch_embed.proj": "videomae.embeddings.patch_embeddings.projection",
    "norm": "videomae.layernorm",
    "fc_norm": "fc_norm",
    "head": "classifier",
}
BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "attn.q": "attention.attention.query",
    "attn.k": "attention.attention.key",
    "attn.v": "attention.attention.value",
    "attn.q_bias": "attention.attention.q_bias",
    "attn.v_bias": "attention.attention.v_bias",
}
# How versions before 5.5.1 call a bias, and how later ones do.
NEW_BIASES = {
    "attention.attention.q_bias": "attention.attention.query.bias",
    "attention.attention.v_bias": "attention.attention.value.bias",
}
BIASES = (*NEW_BIASES, *NEW_BIASES.values(), "attention.attention.key.bias")
DECODER = {"norm": "decoder.norm", "head": "decoder.head"}
_BLOCK = re.compile(r"(?:encoder\.)?(decoder\.)?blocks\.(\d+)\.(.+?)(\.weight|\.bias)?")


def to_state(state: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """Official weights under transformers' names, the fused qkv split in three.

    Biases have both spellings, and a key bias of zero, so that every version reads them.

    Raises:
      MismatchError: a tensor that transformers' VideoMAE has no place for.
    """
    result = {}
    for name, array in state.items():
        if name.endswith("attn.qkv.weight"):
            for letter, part in zip("qkv", np.split(array, 3), strict=True):
                result[_their_name(name.replace("attn.qkv", f"attn.{letter}"), kind)] = part
        else:
            theirs = _their_name(name, kind)
            result[theirs] = array
            for old, new in NEW_BIASES.items():
                if theirs.endswith(old):
                    result[theirs.removesuffix(old) + new] = array
            if theirs.endswith("attention.attention.q_bias"):
                result[theirs.removesuffix("q_bias") + "key.bias"] = np.zeros_like(array)
    return result


def is_spelling(name: str) -> bool:
    """Whether a tensor is a bias of attention, of which a file has a spelling that its reader does not use."""
    return name.endswith(BIASES)


def from_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """transformers' weights, of any version, under official names; q, k and v still apart.

    A name that is not known is kept and reported later. A key bias of zeros, which changes no
    output, is left out.

    Raises:
      MismatchError: if the two spellings of a bias have different values.
    """
    kind = "encoder"
    if any(name.startswith("decoder.") for name in state):
        kind = "pretraining"
    elif any(name.startswith(("fc_norm.", "classifier.")) for name in state):
        kind = "classifier"
    result: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    for name, array in state.items():
        official = _official_name(name, kind)
        if name.endswith("attention.attention.key.bias") and not array.any():
            continue
        if official in result and not np.array_equal(result[official], array):
            raise MismatchError(f"{origin[official]} and {name} are one bias in two spellings, and their values differ")
        result[official], origin[official] = array, name
    return result


def config(
    dims: Dims,
    *,
    heads: int,
    decoder_heads: int,
    frames: int,
    size: tuple[int, int],
    dtype: str = "float32",
    normalized_targets: bool = True,
    final_norm: bool = True,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """The `config.json`.

    `use_mean_pooling` determines where the final norm is: true, as in a classifier, and transformers builds
    none in the encoder and drops the weights of one in silence; so it is false in pre-training.

    Args:
      dims: of the weights.
      frames, size: of a clip; size is (height, width).
      dtype: of the file.
      normalized_targets: whether pre-training predicts normalised cubes.
      final_norm: whether the encoder has one; a classifier's norm comes after the mean.
      labels: class names of a classifier, in order; empty for LABEL_0, ….
    """
    data: dict[str, Any] = {
        "architectures": [ARCHITECTURES[dims.kind]],
        "model_type": "videomae",
        "image_size": size[0] if size[0] == size[1] else list(size),
        "num_frames": frames,
        "tubelet_size": dims.tubelet,
        "use_mean_pooling": not final_norm,
        "norm_pix_loss": normalized_targets,
        "torch_dtype": dtype,
        **network(dims, heads=heads, decoder_heads=decoder_heads),
    }
    if dims.kind == "classifier":
        names = list(labels) or [f"LABEL_{i}" for i in range(dims.classes)]
        if len(names) != dims.classes or len(set(names)) != len(names):
            raise MismatchError(f"{len(set(names))} different label names were given for {dims.classes} classes")
        data["id2label"] = {str(i): name for i, name in enumerate(names)}
        data["label2id"] = {name: i for i, name in enumerate(names)}
    return data


def network(dims: Dims, *, heads: int, decoder_heads: int) -> dict[str, Any]:
    """Return the entries of a `config.json` about the transformers, which VideoMAE and ViT-MAE have in common."""
    data: dict[str, Any] = {
        "patch_size": dims.patch,
        "num_channels": dims.channels,
        "hidden_size": dims.width,
        "num_hidden_layers": dims.depth,
        "num_attention_heads": heads,
        "intermediate_size": dims.hidden,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
    }
    if dims.kind == "pretraining":
        data |= {
            "decoder_num_attention_heads": decoder_heads,
            "decoder_hidden_size": dims.decoder_width,
            "decoder_num_hidden_layers": dims.decoder_depth,
            "decoder_intermediate_size": dims.decoder_hidden,
        }
    return data


def preprocessor(*, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """The `preprocessor_config.json`: resize, centre crop, and the model's own mean and deviation."""
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": min(size)},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": size[0], "width": size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def as_text(data: Mapping[str, Any]) -> str:
    """JSON as transformers lays it out."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _their_name(name: str, kind: str) -> str:
    match = _BLOCK.fullmatch(name)
    if match:
        decoder, number, part, suffix = match.groups()
        if part in BLOCK:
            layers = "decoder.decoder_layers" if decoder else "videomae.encoder.layer"
            return _bare(f"{layers}.{number}.{BLOCK[part]}{suffix or ''}", kind)
    elif name in ("mask_token", "encoder_to_decoder.weight"):
        return name
    else:
        stem, _, suffix = name.rpartition(".")
        table = DECODER if stem.startswith("decoder.") else TOP
        stem = stem.removeprefix("decoder.").removeprefix("encoder.")
        if stem in table:
            return _bare(f"{table[stem]}.{suffix}", kind)
    raise MismatchError(f"transformers' VideoMAE has no place for {name} ({_reason(name)})")


def _bare(name: str, kind: str) -> str:
    """`VideoMAEModel` alone has no prefix."""
    return name.removeprefix("videomae.") if kind == "encoder" else name


def _reason(name: str) -> str:
    if "attn.scale" in name:
        return "it knows no cosine attention"
    if "gamma_" in name:
        return "it knows no layer scale"
    return "it knows only the fixed 1-D sinusoid of positions" if "pos_embed" in name else "an unknown tensor"


def _official_name(name: str, kind: str) -> str:
    name = name.removeprefix("videomae.")
    prefix = "" if kind == "classifier" else "encoder."
    match = re.fullmatch(r"(?:encoder\.layer|(decoder)\.decoder_layers)\.(\d+)\.(.+)", name)
    if match:
        decoder, number, part = match.groups()
        blocks = "decoder.blocks" if decoder else f"{prefix}blocks"
        for old, new in NEW_BIASES.items():
            part = old if part == new else part
        for ours, theirs in BLOCK.items():
            if part == theirs or part in (f"{theirs}.weight", f"{theirs}.bias"):
                return f"{blocks}.{number}.{ours}{part.removeprefix(theirs)}"
        return f"{blocks}.{number}.{part}"
    if name.startswith("decoder.") or name in ("mask_token", "encoder_to_decoder.weight"):
        return name
    stem, _, suffix = name.rpartition(".")
    for ours, theirs in TOP.items():
        if stem == theirs.removeprefix("videomae."):
            return f"{'' if ours in ('fc_norm', 'head') else prefix}{ours}.{suffix}"
    return name
