"""The dimensions of a model, read from the shapes of its weights in the official names."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from vmae_jax.weights.formats.checks import shown
from vmae_jax.weights.layouts.rules import MismatchError

__all__ = ["Dims", "check_axes", "checked_heads", "depth_of", "dims_of", "kind_of", "mlp_ratio", "unlike"]


class Dims(NamedTuple):
    """The dimensions of a model, read from its weights; None or 0 where they have no such part.

    Attributes:
      kind: "pretraining", "classifier" or "encoder".
      tubelet: frames of a cube; 0 in weights of an image model.
      hidden, decoder_hidden: the MLPs' width.
      heads: known only from cosine attention's temperatures.
    """

    kind: str
    width: int
    depth: int
    hidden: int
    patch: int
    tubelet: int
    channels: int
    decoder_width: int = 0
    decoder_depth: int = 0
    decoder_hidden: int = 0
    classes: int = 0
    cosine: bool = False
    layer_scale: bool = False
    heads: int = 0


# The arguments of `models.variants.vit` (and `classes` of `methods.classify.build`) that set each.
ARGUMENTS = {"hidden": "mlp_ratio", "decoder_hidden": "mlp_ratio", "cosine": "cosine_attention"}
RESIZABLE = ("patch", "tubelet", "channels")


def kind_of(names: Any) -> str:
    """Return the part of a model that has these official names."""
    if any(name.startswith("decoder.") for name in names):
        return "pretraining"
    return "classifier" if any(name.startswith(("head.", "fc_norm.")) for name in names) else "encoder"


def check_axes(state: Mapping[str, Any], axes: Mapping[str, int]) -> None:
    """Raise MismatchError if a tensor is missing, empty, or has another number of axes."""
    for name, count in axes.items():
        if name not in state or state[name].ndim != count or not state[name].size:
            raise MismatchError(f"{name} is missing from the weights, or does not have {count} axes")


def dims_of(state: Mapping[str, Any], kind: str | None = None) -> Dims:
    """Return the dimensions of weights (arrays or shapes) in the official names.

    Args:
      kind: of the model, if parts may be missing; None detects it.

    Raises:
      MismatchError: if a tensor that every model has is missing, or has too few axes.
    """
    kind = kind or kind_of(state)
    prefix = "" if kind == "classifier" else "encoder."
    shape = _shape(state, f"{prefix}patch_embed.proj.weight", (4, 5))
    width, channels = shape[:2]
    blocks = f"{prefix}blocks"
    decoder = {}
    if kind == "pretraining" and "encoder_to_decoder.weight" in state:
        decoder = {
            "decoder_width": _shape(state, "encoder_to_decoder.weight", (2,))[0],
            "decoder_depth": depth_of(state, "decoder.blocks"),
            "decoder_hidden": _shape(state, "decoder.blocks.0.mlp.fc1.weight", (2,))[0],
        }
    scale = state.get(f"{blocks}.0.attn.scale")
    return Dims(
        kind=kind,
        width=width,
        depth=depth_of(state, blocks),
        hidden=_shape(state, f"{blocks}.0.mlp.fc1.weight", (2,))[0],
        patch=shape[-1],
        tubelet=shape[2] if len(shape) == 5 else 0,
        channels=channels,
        classes=state["head.weight"].shape[0] if "head.weight" in state else 0,
        cosine=scale is not None,
        layer_scale=f"{blocks}.0.gamma_1" in state,
        heads=scale.shape[0] if scale is not None else 0,
        **decoder,
    )


def unlike(weights: Dims, model: Dims, *, resized: bool) -> None:
    """Raise MismatchError, with all differences in one line, if weights do not fit a model.

    Args:
      weights, model: parts that one of them lacks (a decoder, a head) are not compared.
      resized: whether cubes and channels may differ, because they are resampled.
    """
    wrong, could = [], []
    for name in Dims._fields[1:]:
        have, want = getattr(weights, name), getattr(model, name)
        optional = name.startswith("decoder") or name in ("classes", "heads", "tubelet")
        if have == want or (optional and not (have and want)):
            continue
        if name in RESIZABLE:
            if resized:
                continue
            could.append(name)
        label = ARGUMENTS.get(name, name)
        if label == "mlp_ratio":
            base = weights.decoder_width if name.startswith("decoder") else weights.width
            wrong.append(f"{name} {have} (mlp_ratio {have / base:g}), not {want}")
        else:
            wrong.append(f"{label} {have}, not {want}")
    if wrong:
        hint = "; --resize resamples cubes and channels" if could else ""
        raise MismatchError(f"the weights are of another model than the config's: {', '.join(wrong)}{hint}")


def _shape(state: Mapping[str, Any], name: str, axes: tuple[int, ...]) -> tuple[int, ...]:
    if name not in state:
        raise MismatchError(f"{name} is missing from the weights")
    shape = tuple(state[name].shape)
    if len(shape) not in axes:
        raise MismatchError(f"{name} has shape {shape}; {' or '.join(map(str, axes))} axes were expected")
    return shape


def depth_of(state: Mapping[str, Any], blocks: str) -> int:
    """Return the number of blocks of a stack; raise MismatchError if one is missing."""
    numbers = {name.removeprefix(f"{blocks}.").split(".")[0] for name in state if name.startswith(f"{blocks}.")}
    depth = len(numbers)
    absent = [i for i in range(depth) if str(i) not in numbers]
    if absent or not depth:
        raise MismatchError(f"{blocks}.{absent[0] if absent else 0} is missing from the weights")
    return depth


def mlp_ratio(hidden: int, width: int) -> float:
    """Return a ratio of which int(width * ratio) is the width of an MLP."""
    return hidden / width if int(width * (hidden / width)) == hidden else (hidden + 0.5) / width


def checked_heads(heads: Any, width: int) -> int:
    """Return a number of heads, of a file's own config or of the published models.

    Raises:
      MismatchError: if it is no number, or does not divide the width.
    """
    if type(heads) is not int or not 0 < heads <= width or width % heads:
        raise MismatchError(f"{shown(heads)} attention heads of a width of {width}: give --config")
    return heads
