"""The layout of ViT-MAE in Hugging Face `transformers`: MAE of images under other names, q, k and v apart."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vmae_jax.weights.layouts import mae
from vmae_jax.weights.layouts.dims import Dims
from vmae_jax.weights.layouts.huggingface import BLOCK, network
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.layouts.videomae import Facts

__all__ = ["ARCHITECTURES", "config", "from_names", "is_vit_mae", "preprocessor", "to_state"]

ARCHITECTURES = {"pretraining": "ViTMAEForPreTraining", "encoder": "ViTMAEModel"}
# transformers' ViT-MAE -> MAE, outside of the blocks.
TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "layernorm.": "norm.",
    "decoder.mask_token": "mask_token",
    "decoder.decoder_": "decoder_",
}
_THEIR_BLOCK = re.compile(r"(?:encoder\.layer|decoder\.decoder_layers)\.(\d+)\.(.+)\.(weight|bias)")
_BLOCK = re.compile(r"(decoder_)?blocks\.(\d+)\.(.+)\.(weight|bias)")


def is_vit_mae(state: Mapping[str, np.ndarray]) -> bool:
    """Return whether weights are those of ViT-MAE in transformers."""
    return any(name.removeprefix("vit.") == "embeddings.cls_token" for name in state)


def from_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ViT-MAE's weights under MAE's names; q, k and v are still apart."""
    result = {}
    for name, array in state.items():
        short = name.removeprefix("vit.")
        match = _THEIR_BLOCK.fullmatch(short)
        if match:
            number, part, leaf = match.groups()
            known = next((ours for ours, theirs in BLOCK.items() if theirs == part), part)
            short = f"{'decoder_' if short.startswith('decoder.') else ''}blocks.{number}.{known}.{leaf}"
        else:
            before = next((before for before in TOP if short.startswith(before)), "")
            short = TOP[before] + short.removeprefix(before) if before else short
        result[short] = array
    return result


def to_state(state: Mapping[str, np.ndarray], facts: Facts, kind: str) -> dict[str, np.ndarray]:
    """Return official weights under ViT-MAE's names.

    Args:
      state: in the official names.
      facts: of the model.
      kind: "pretraining" or "encoder".

    Raises:
      MismatchError: if the model has a part that ViT-MAE does not have.
    """
    if kind not in ARCHITECTURES:
        raise MismatchError("transformers' ViT-MAE has no classifier of the mean of the tokens: export --format=mae")
    result = {}
    for name, array in mae.to_state(state, facts, image=True, fused=False).items():
        result[_their_name(name, kind)] = array
    return result


def _their_name(name: str, kind: str) -> str:
    match = _BLOCK.fullmatch(name)
    above = "vit." if kind == "pretraining" else ""
    if match:
        decoder, number, part, leaf = match.groups()
        layers = "decoder.decoder_layers" if decoder else f"{above}encoder.layer"
        return f"{layers}.{number}.{BLOCK[part]}.{leaf}"
    for theirs, ours in TOP.items():
        if name.startswith(ours):
            return ("" if theirs.startswith("decoder.") else above) + theirs + name.removeprefix(ours)
    raise MismatchError(f"transformers' ViT-MAE has no place for {name}")


def config(
    dims: Dims, facts: Facts, *, size: int, normalized_targets: bool, mask_ratio: float, dtype: str
) -> dict[str, Any]:
    """Return the `config.json`.

    Args:
      dims: of the weights.
      facts: of the model.
      size: pixels of a side of an image.
      normalized_targets: whether pre-training predicts normalised cubes.
      mask_ratio: the share of hidden tokens, which its models draw by themselves.
      dtype: of the file.
    """
    return {
        "architectures": [ARCHITECTURES[dims.kind]],
        "model_type": "vit_mae",
        "image_size": size,
        "mask_ratio": mask_ratio,
        "norm_pix_loss": normalized_targets,
        "torch_dtype": dtype,
        **network(dims, heads=facts.heads, decoder_heads=facts.decoder_heads),
    }


def preprocessor(*, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """Return the `preprocessor_config.json`: resize, and the model's own mean and deviation."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
