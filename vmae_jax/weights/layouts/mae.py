"""The layouts of MAE and MAE-ST (and HVM-1), in terms of the official VideoMAE names; and of transformers' ViT-MAE.

They have a class token with a position of its own, which here is part of the token; positions as a table behind that
of the class token, or as places and times; and one bias for q, k and v. MAE's patch embedding is of images.
"""

import re
from collections.abc import Mapping

import numpy as np

from vmae_jax.weights.layouts.huggingface import BLOCK
from vmae_jax.weights.layouts.rules import MismatchError

__all__ = ["from_vit_mae", "is_vit_mae", "to_state"]

# The decoder's names, as the official VideoMAE ones begin.
DECODER = {
    "encoder_to_decoder.": "decoder_embed.",
    "decoder.blocks.": "decoder_blocks.",
    "decoder.norm.": "decoder_norm.",
    "decoder.head.": "decoder_pred.",
    "decoder.pos_embed_": "decoder_pos_embed_",
    "decoder.cls_token": "decoder_cls_token",
}
# transformers' ViT-MAE -> MAE, outside of the blocks.
VIT_MAE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "layernorm.": "norm.",
    "decoder.mask_token": "mask_token",
    "decoder.decoder_": "decoder_",
}
_VIT_MAE_BLOCK = re.compile(r"(?:encoder\.layer|decoder\.decoder_layers)\.(\d+)\.(.+)\.(weight|bias)")


def to_state(
    state: Mapping[str, np.ndarray], positions: Mapping[str, np.ndarray], *, image: bool
) -> dict[str, np.ndarray]:
    """Return official weights under the names of MAE and MAE-ST.

    Args:
      state: in the official names.
      positions: tables [n width] of those that the model computes, by tower.
      image: whether the model takes one frame, whose patch embedding MAE has without an axis of time.

    Raises:
      MismatchError: if the model has a part that these layouts do not have.
    """
    _check(state)
    found: dict[str, np.ndarray] = {}
    for name, array in state.items():
        ours = name.removeprefix("encoder.")
        if ours == "patch_embed.proj.weight" and image:
            array = array[:, :, 0]
        for before, after in DECODER.items():
            ours = after + ours.removeprefix(before) if ours.startswith(before) else ours
        found[ours] = array
    for tower, before in (("encoder", ""), ("decoder", "decoder_")):
        if tower == "decoder" and "decoder_pred.weight" not in found:
            continue
        if tower in positions:
            found[f"{before}pos_embed"] = positions[tower][None]
        token = found.get(f"{before}cls_token")
        if token is not None and f"{before}pos_embed" in found:  # its position is in the token
            found[f"{before}pos_embed"] = np.concatenate([np.zeros_like(token), found[f"{before}pos_embed"]], axis=1)
        elif token is not None:
            found[f"{before}pos_embed_class"] = np.zeros_like(token)
    if "decoder_embed.weight" in found:
        found["decoder_embed.bias"] = np.zeros(len(found["decoder_embed.weight"]), np.float32)
    return _one_bias(found)


def _check(state: Mapping[str, np.ndarray]) -> None:
    """Raise MismatchError if these layouts have no place for a tensor."""
    for name, array in state.items():
        if name.endswith("attn.scale") or ".gamma_" in name:
            what = "cosine attention" if name.endswith("attn.scale") else "layer scale"
            raise MismatchError(f"{what} cannot be represented in MAE; use --format=videomae")
        if name.endswith("cls_token") and array.shape[1] != 1:
            raise MismatchError(f"MAE has one class token, and {name} has {array.shape[1]}: use --format=params")
    if any(name.startswith("decoder.") for name in state) and "decoder.pos_embed_temporal" not in state:
        raise MismatchError(
            "MAE's decoder decodes the class token of its encoder, and MAE-ST's has learned places and times; this "
            "decoder is another: export --part=encoder, or use --format=params"
        )


def _one_bias(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One bias of q, k and v in each block; that of the keys is zero."""
    result = dict(state)
    for name in state:
        if name.endswith("attn.q_bias"):
            stem = name.removesuffix("q_bias")
            q, v = result.pop(name), result.pop(f"{stem}v_bias")
            result[f"{stem}qkv.bias"] = np.concatenate([q, np.zeros_like(q), v])
    return result


def is_vit_mae(state: Mapping[str, np.ndarray]) -> bool:
    """Return whether weights are those of ViT-MAE in transformers."""
    return any(name.removeprefix("vit.") == "embeddings.cls_token" for name in state)


def from_vit_mae(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ViT-MAE's weights under MAE's names; q, k and v are still apart."""
    result = {}
    for name, array in state.items():
        short = name.removeprefix("vit.")
        match = _VIT_MAE_BLOCK.fullmatch(short)
        if match:
            number, part, leaf = match.groups()
            known = next((ours for ours, theirs in BLOCK.items() if theirs == part), part)
            short = f"{'decoder_' if short.startswith('decoder.') else ''}blocks.{number}.{known}.{leaf}"
        else:
            before = next((before for before in VIT_MAE if short.startswith(before)), "")
            short = VIT_MAE[before] + short.removeprefix(before) if before else short
        result[short] = array
    return result
