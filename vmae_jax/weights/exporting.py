"""`vmae export`: weights for other programs, whose outputs are compared before they are written."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vmae_jax.models.styles import STYLES
from vmae_jax.spec import ConfigError
from vmae_jax.weights import own, serving, siamese, vjepa
from vmae_jax.weights.card import write_card
from vmae_jax.weights.checkpoint import Checkpoint, read_checkpoint
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.formats.atomic import NotWrittenError, replaced
from vmae_jax.weights.layouts.dims import dims_of
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.layouts.videomae import paths, to_official
from vmae_jax.weights.published import DTYPES, Export, finite, write_hf, write_mae, write_official
from vmae_jax.weights.subject import Subject, leaves, probe, published, sinusoidal, subject

__all__ = ["FORMATS", "export_checkpoint"]

FORMATS = ("hf", "videomae", "mae", "cropmae", "vjepa", "params", "stablehlo")
TO_THE_BIT = "the parameters are those of the run to the bit (of the dtype)"
FILES = {
    **dict.fromkeys(("videomae", "mae", "cropmae"), (".pth", ".safetensors")),
    "vjepa": (".pth",),
    "params": (".safetensors",),
}
WHOLE = dict.fromkeys(("stablehlo", "cropmae", "vjepa"), ("all",))  # formats that are not written in part
# Methods whose decoders have a place in no published layout, or in one of their own.
OTHER_DECODERS = (siamese.METHOD, "methods.siammcvae.build", "methods.diffmae.build", "methods.ttt.build")
PUBLISHED = {"hf": write_hf, "videomae": write_official, "mae": write_mae}


def export_checkpoint(
    checkpoint: Any,
    *,
    format: str,  # noqa: A002 - the command's flag
    out: Any,
    dtype: str = "float32",
    ema: bool = False,
    part: str = "all",
    labels: Sequence[str] = (),
    license: str = "",  # noqa: A002
    clip: np.ndarray | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a run's model for other programs, after comparing its outputs.

    Args:
      checkpoint: a workdir or WORKDIR/checkpoints/N.
      format: "hf", a folder that transformers opens; "videomae", a `.pth` or `.safetensors` file that the official code
        loads; "mae", one of MAE or MAE-ST; "cropmae", one of CropMAE's code; "vjepa", a `.pth` of V-JEPA's; "params", a
        `.safetensors` file with the parameters of any method under their own names; "stablehlo", a folder with the
        model as portable StableHLO.
      out: a local folder or file.
      dtype: of the weights (of "stablehlo": of its matrix products).
      ema: export the average of the parameters.
      part: "all", or "encoder" to leave the decoder out; for "params" any tower or frozen network by name.
      labels: class names of a classifier, in order.
      license: an identifier for the model card, such as "cc-by-nc-4.0"; empty states none.
      clip: a real clip, uint8 [t h w c] of the model's shape, compared beside a random one.
      overwrite: replace a file, or an earlier export, at `out`, once the new one is complete and verified.

    Returns:
      a report that JSON can hold: "out", "step", "tensors", "parameters", "left_out", "checked_by",
      "largest_difference", "differences", "differences_as_loaded", "not_checked".

    Raises:
      ConfigError: if the export is not possible; nothing was written, and an earlier export is untouched.
    """
    _check(format, dtype, part, out, overwrite)
    source = read_checkpoint(checkpoint, ema=ema)
    try:
        if format == "stablehlo":
            return serving.export(source, out=out, dtype=dtype, clip=clip)
        if format == "params":
            return _export_own(source, out, dtype=dtype, part=part, ema=ema)
        one = subject(source.config)
        if one.model is not None and one.model.encoder.causal:
            raise MismatchError("no layout that is written here has block-causal attention: use --format=params")
        if format == "cropmae":
            return _export_siamese(source, one, out, dtype=dtype, ema=ema)
        if format == "vjepa" or (format == "hf" and _is_latent(one)):
            return _export_latent(source, one, out, format=format, dtype=dtype, ema=ema)
        why = f"--format={format} is a layout of published models; --format=params and stablehlo take any"
        if published(one, why).encoder.style != STYLES["vit"]:
            raise MismatchError(
                "no layout that is written here has the blocks of another style than 'vit': use --format=params"
            )
        params, left_out = _selected(one, source.params, part)
        state = to_official(params, one.facts)
        _representable(one, params, state, format)
        finite(state)
        dims = dims_of(state)
        made = Export(one, params, state, dims, dtype, labels, probe(one, clip))
        with replaced(out) as new:
            checks = PUBLISHED[format](new, made)
            report = {
                "out": str(out),
                "format": format,
                "step": source.step,
                "weights": _which(ema),
                "dtype": dtype,
                "tensors": len(state),
                "parameters": int(sum(array.size for array in state.values())),
                "left_out": left_out,
                "compared_on": ["a random clip"] + (["a real clip"] if clip is not None else []),
                **checks,
            }
            if format == "hf":
                write_card(new, one, source, dims, report, license=license)
        return report
    except (MismatchError, NotWrittenError, tensors.UnreadableFileError) as error:
        raise ConfigError(f"export: {error}") from None


def _check(format: str, dtype: str, part: str, out: Any, overwrite: bool) -> None:  # noqa: A002
    if format == "onnx":
        raise ConfigError(
            "--format=onnx: JAX has no maintained ONNX exporter; use --format=stablehlo, which is part of JAX, "
            "or --format=hf and torch.onnx"
        )
    for what, value, known in (
        ("format", format, FORMATS),
        ("dtype", dtype, tuple(DTYPES)),
        (
            "part",
            part,
            {"params": (part,), "stablehlo": ("all",), "cropmae": ("all",), "vjepa": ("all",)}.get(
                format, ("all", "encoder")
            ),
        ),
    ):
        if value not in known:
            raise ConfigError(f"--{what}={value}: one of {', '.join(known)}")
    if format in FILES and pathlib.Path(out).suffix not in FILES[format]:
        raise ConfigError(
            f"--out={out}: the name of a {' or '.join(FILES[format])} file is needed for --format={format}"
        )
    if format not in FILES and pathlib.Path(out).is_file():
        raise ConfigError(f"--out={out} is a file; --format={format} writes a folder")
    if pathlib.Path(out).is_dir() and _foreign(pathlib.Path(out), format):
        raise ConfigError(f"--out={out} is a folder with other things in it; name a new one, or an earlier export")
    there = pathlib.Path(out)
    if not overwrite and there.exists() and (there.is_file() or any(there.iterdir())):
        raise ConfigError(f"--out={out} exists already: name another, or replace it with --overwrite")


def _foreign(folder: pathlib.Path, format: str) -> bool:  # noqa: A002
    """Whether replacing a folder would remove anything but an export of ours."""
    known = {"hf": ("model.safetensors", "config.json"), "stablehlo": ("manifest.json",)}.get(format, ())
    return any(folder.iterdir()) and not (known and all((folder / name).is_file() for name in known))


def _export_own(source: Checkpoint, out: Any, *, dtype: str, part: str, ema: bool) -> dict[str, Any]:
    """Write parameters under their own names; of a frozen network without the method, which is another's."""
    params, trained = own.tower(source, part)
    with replaced(out) as new:
        state = own.write(new, params, source.config if trained else None, DTYPES[dtype])
    weights = _which(ema) if trained else "a frozen network"
    left_out = {} if trained and part == "all" else {"other towers": f"--part={part} was given"}
    report = _round_trip(source, out, state, format="params", weights=weights, dtype=dtype)
    return report | {"left_out": left_out, "not_checked": f"outputs: {TO_THE_BIT}"}


def _export_siamese(source: Checkpoint, one: Subject, out: Any, *, dtype: str, ema: bool) -> dict[str, Any]:
    """Write SiamMAE or CropMAE in the layout of CropMAE's code."""
    with replaced(out) as new:
        state = siamese.write(new, one, source.params, dtype)
    return _round_trip(source, out, state, format="cropmae", weights=_which(ema), dtype=dtype)


def _round_trip(
    source: Checkpoint,
    out: Any,
    state: Mapping[str, np.ndarray],
    *,
    format: str,  # noqa: A002
    weights: str,
    dtype: str,
) -> dict[str, Any]:
    """Return the report of an export that was read back, and compared with what was written."""
    return {
        "out": str(out),
        "format": format,
        "step": source.step,
        "weights": weights,
        "dtype": dtype,
        "tensors": len(state),
        "parameters": int(sum(array.size for array in state.values())),
        "left_out": {},
        "checked_by": "round trip",
        "largest_difference": 0.0,
        "differences": {},
        "not_checked": "outputs: the parameters are the same after an import of the export",
    }


def _which(ema: bool) -> str:
    return "average of the parameters" if ema else "parameters"


def _is_latent(one: Subject) -> bool:
    node: Any = one.config.get("method")
    return node.call in vjepa.METHODS


def _export_latent(
    source: Checkpoint,
    one: Subject,
    out: Any,
    *,
    format: str,  # noqa: A002
    dtype: str,
    ema: bool,
) -> dict[str, Any]:
    """Write V-JEPA or V-JEPA 2 in the layout of their code or of transformers."""
    vjepa.check(one)
    with replaced(out) as new:
        if format == "hf":
            state = vjepa.write_hf(new, one, source.params, dtype)
        else:
            other = read_checkpoint(str(source.workdir.checkpoints / str(source.step)), ema=not ema)
            online, average = (other, source) if ema else (source, other)
            state = vjepa.write(new, one, online.params, average.params, dtype)
    weights = "parameters, and their average as the target" if format == "vjepa" else _which(ema)
    return _round_trip(source, out, state, format=format, weights=weights, dtype=dtype)


def _selected(one: Subject, params: Any, part: str) -> tuple[Any, dict[str, str]]:
    """Return the parameters to export, and the reason for each of the others."""
    left_out = {}
    if part == "encoder":
        chosen = {"encoder": params["encoder"]}
        reason = "only the encoder is exported"
    else:
        section: Any = one.config.get("method")
        if "decoder" in params and section.call in OTHER_DECODERS:
            use = "--format=cropmae" if section.call == siamese.METHOD else "--format=params"
            raise MismatchError(f"the decoder is another than VideoMAE's: use {use}, or export --part=encoder")
        if "decoder" in params and one.masked is None and section.call not in vjepa.METHODS:
            raise MismatchError(f"VideoMAE has no place for all networks of {section.call}: export --part=encoder")
        if "decoder" in params and f"head_{one.pixels}" not in params["decoder"]:
            raise MismatchError("the decoder predicts no pixels, as VideoMAE's does: export --part=encoder")
        if section.call in vjepa.METHODS:
            raise MismatchError("a latent predictor is none of these models: use --format=vjepa, hf or params")
        chosen = {name: value for name, value in params.items() if name in ("encoder", "decoder", "fc_norm", "head")}
        reason = "the format has no place for it"
    known = paths(chosen, one.facts)
    for name, value in leaves(params).items():
        if name not in known:
            left_out[name] = reason
            if not (part == "encoder" or name.startswith("decoder/head_")):
                raise MismatchError(f"{name} {list(value.shape)} has no place in VideoMAE: export --part=encoder")
    if "decoder" in chosen:
        heads = {name for name in chosen["decoder"] if name.startswith("head_")} - {f"head_{one.pixels}"}
        chosen["decoder"] = {name: value for name, value in chosen["decoder"].items() if name not in heads}
    return chosen, left_out


def _representable(one: Subject, params: Any, state: Mapping[str, np.ndarray], format: str) -> None:  # noqa: A002
    if format == "mae" or (format == "hf" and one.facts.image):
        return  # `mae.to_state` and `vit_mae.to_state` refuse what has no place there
    if format == "hf" and any(name.endswith("attn.scale") for name in state):
        raise MismatchError("cosine attention cannot be represented in transformers' VideoMAE; use --format=videomae")
    if format == "hf" and any(".gamma_" in name for name in state):
        raise MismatchError("layer scale cannot be represented in transformers' VideoMAE; use --format=videomae")
    if format == "hf" and "decoder" in params and one.model.channels != 3 and not one.normalized_targets:
        raise MismatchError("transformers has no loss for raw pixels of other channels than RGB: export --part=encoder")
    if any(name.endswith("cls_token") for name in state):
        raise MismatchError(
            "a class token exists neither in VideoMAE nor in transformers' form of it: use --format=mae or params"
        )
    if not sinusoidal(one):
        raise MismatchError(
            "only the fixed 1-D sinusoid of positions exists in VideoMAE and in transformers: "
            "use --format=mae or params"
        )
