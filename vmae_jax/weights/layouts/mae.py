"""The layouts of MAE and MAE-ST (and HVM-1), in terms of the official VideoMAE names.

Positions are a table, whose first row is the class token's, or places, times and the class token's apart; q, k and v
have biases each. MAE's patch embedding is of images.
"""

from collections.abc import Mapping

import numpy as np

from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.layouts.videomae import Facts, fused_biases

__all__ = ["to_state"]

# The decoder's names, as the official VideoMAE ones begin.
DECODER = {
    "encoder_to_decoder.": "decoder_embed.",
    "decoder.pos_embed": "decoder_pos_embed",
    "decoder.blocks.": "decoder_blocks.",
    "decoder.norm.": "decoder_norm.",
    "decoder.head.": "decoder_pred.",
    "decoder.cls_token": "decoder_cls_token",
}


def to_state(state: Mapping[str, np.ndarray], facts: Facts, *, image: bool, fused: bool) -> dict[str, np.ndarray]:
    """Return official weights under the names of MAE and MAE-ST.

    Args:
      state: in the official names.
      facts: of the model.
      image: whether the model takes one frame; its patch embedding then has no axis of time.
      fused: whether q, k and v are one matrix (MAE) or three (MAE-ST).

    Raises:
      MismatchError: if the model has a part that these layouts do not have.
    """
    _check(state, facts)
    found: dict[str, np.ndarray] = {}
    for name, array in state.items():
        ours = name.removeprefix("encoder.")
        if ours == "patch_embed.proj.weight" and image:
            array = array[:, :, 0]
        for before, after in DECODER.items():
            ours = after + ours.removeprefix(before) if ours.startswith(before) else ours
        found[ours] = array
    for tower, before in (("encoder", ""), ("decoder", "decoder_")):
        if tower == "encoder" or "decoder_pred.weight" in found:
            _positions(found, before, facts.tables.get(tower), first="cls_token" in found)
    if "decoder_embed.weight" in found and "decoder_embed.bias" not in found:
        found["decoder_embed.bias"] = np.zeros(len(found["decoder_embed.weight"]), np.float32)
    return _attention(found, fused=fused)


def _positions(found: dict[str, np.ndarray], before: str, table: np.ndarray | None, *, first: bool) -> None:
    """A tower's positions as a table whose first row is the class token's, or MAE-ST's three."""
    name, own = f"{before}pos_embed", f"{before}pos_embed_class"
    if table is not None:
        found[name] = table[None]
    if name not in found:
        if first and own not in found:
            found[own] = np.zeros_like(found[f"{before}cls_token"])  # it is in the token
        return
    row = found.pop(own, np.zeros_like(found[name][:, :1]))
    if first:
        found[name] = np.concatenate([row, found[name]], axis=1)


def _check(state: Mapping[str, np.ndarray], facts: Facts) -> None:
    """Raise MismatchError if these layouts have no place for a tensor."""
    for name, array in state.items():
        if name.endswith("attn.scale") or ".gamma_" in name:
            what = "cosine attention" if name.endswith("attn.scale") else "layer scale"
            raise MismatchError(f"{what} cannot be represented in MAE; use --format=videomae")
        if name.endswith("cls_token") and array.shape[1] != 1:
            raise MismatchError(f"MAE has one class token, and {name} has {array.shape[1]}: use --format=params")
    decodes = any(name.startswith("decoder.") for name in state)
    if decodes and not facts.keeps_prefix and (facts.image or "decoder" in facts.tables):
        raise MismatchError(
            "MAE's decoder decodes the class token of its encoder (decoder_prefix='kept'), and MAE-ST's has learned "
            "positions; this decoder is another: export --part=encoder, or use --format=params"
        )


def _attention(state: Mapping[str, np.ndarray], *, fused: bool) -> dict[str, np.ndarray]:
    """One matrix and bias for q, k and v in each block (MAE), or three (MAE-ST); that of the keys is zero."""
    result = fused_biases(state)
    if fused:
        return result
    for name in [name for name in result if ".attn.qkv." in name]:
        for letter, part in zip("qkv", np.split(result.pop(name), 3), strict=True):
            result[name.replace(".attn.qkv.", f".attn.{letter}.")] = part
    return result
