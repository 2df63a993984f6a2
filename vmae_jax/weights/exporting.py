"""`vmae export`: weights for other programs, proven by their outputs before they are there."""

import importlib.metadata
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from vmae_jax.spec import ConfigError
from vmae_jax.weights import serving, verify
from vmae_jax.weights.card import write_card
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.formats.atomic import NotWrittenError, replaced
from vmae_jax.weights.formats.torch_write import write_pth
from vmae_jax.weights.layouts import huggingface, names
from vmae_jax.weights.layouts.dims import Dims, dims_of
from vmae_jax.weights.layouts.videomae import MismatchError, paths, to_official
from vmae_jax.weights.loading import read_checkpoint
from vmae_jax.weights.subject import Subject, leaves, normalized, outputs, probe, sinusoidal, subject

__all__ = ["DTYPES", "FORMATS", "export_checkpoint"]

FORMATS = ("hf", "videomae", "stablehlo")
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


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
) -> dict[str, Any]:
    """Writes a run's model for other programs, and compares outputs before it takes its place.

    Args:
      checkpoint: a workdir or WORKDIR/checkpoints/N.
      format: "hf", a folder that transformers opens; "videomae", a `.pth` or `.safetensors` file
        that the official code loads; "stablehlo", a folder with the compiled-for-anything model.
      out: a local folder or file; what is there is replaced only by a whole, verified export.
      dtype: of the weights (of "stablehlo": of its matrix products).
      ema: export the average of the parameters.
      part: "all", or "encoder" to leave the decoder out.
      labels: class names of a classifier, in order.
      license: an identifier for the model card, such as "cc-by-nc-4.0"; empty states none.
      clip: a real clip, uint8 [t h w c] of the model's shape, compared beside a random one.

    Returns:
      a report that JSON can hold: "out", "step", "tensors", "parameters", "left_out", "checked_by",
      "largest_difference", "differences", "differences_as_loaded", "not_checked".

    Raises:
      ConfigError: one line; then nothing was written, and an export that was there is as it was.
    """
    _check(format, dtype, part, out)
    source = read_checkpoint(checkpoint, ema=ema)
    try:
        if format == "stablehlo":
            return serving.export(source, out=out, dtype=dtype, clip=clip)
        one = subject(source.config)
        params, left_out = _selected(one, source.params, part)
        _representable(one, params, format)
        state = to_official(params, one.layout)
        _finite(state)
        dims = dims_of(state)
        batch = probe(one.model, clip)
        write = _write_hf if format == "hf" else _write_official
        with replaced(out) as new:
            details = {"dims": dims, "dtype": dtype, "labels": labels, "params": params, "batch": batch}
            checks = write(new, one, state, **details)
            report = {
                "out": str(out),
                "format": format,
                "step": source.step,
                "weights": "average of the parameters" if ema else "parameters",
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


def _check(format: str, dtype: str, part: str, out: Any) -> None:  # noqa: A002
    if format == "onnx":
        raise ConfigError(
            "--format=onnx: JAX has no maintained ONNX exporter; use --format=stablehlo, which is part of JAX, "
            "or --format=hf and torch.onnx"
        )
    for what, value, known in (
        ("format", format, FORMATS),
        ("dtype", dtype, tuple(DTYPES)),
        ("part", part, ("all", "encoder")),
    ):
        if value not in known:
            raise ConfigError(f"--{what}={value}: one of {', '.join(known)}")
    if format == "videomae" and pathlib.Path(out).suffix not in (".pth", ".safetensors"):
        raise ConfigError(f"--out={out}: the name of a .pth or .safetensors file is needed for --format=videomae")
    if format != "videomae" and pathlib.Path(out).is_file():
        raise ConfigError(f"--out={out} is a file; --format={format} writes a folder")
    if pathlib.Path(out).is_dir() and _foreign(pathlib.Path(out), format):
        raise ConfigError(f"--out={out} is a folder with other things in it; name a new one, or an earlier export")


def _foreign(folder: pathlib.Path, format: str) -> bool:  # noqa: A002
    """Whether replacing a folder would remove anything but an export of ours."""
    known = {"hf": ("model.safetensors", "config.json"), "stablehlo": ("manifest.json",)}.get(format, ())
    return any(folder.iterdir()) and not (known and all((folder / name).is_file() for name in known))


def _selected(one: Subject, params: Any, part: str) -> tuple[Any, dict[str, str]]:
    """The parameters that are exported, and the others with the reason."""
    left_out = {}
    if part == "encoder":
        chosen = {"encoder": params["encoder"]}
        reason = "only the encoder was asked for"
    else:
        if "decoder" in params and f"head_{one.pixels}" not in params["decoder"]:
            raise MismatchError("the decoder predicts no pixels, as VideoMAE's does: export --part=encoder")
        chosen = {name: value for name, value in params.items() if name in ("encoder", "decoder", "fc_norm", "head")}
        reason = "the format has no place for it"
    known = paths(chosen, one.layout)
    for name, value in leaves(params).items():
        if name not in known:
            left_out[name] = reason
            if not (part == "encoder" or name.startswith("decoder/head_")):
                raise MismatchError(f"{name} {list(value.shape)} has no place in VideoMAE: export --part=encoder")
    return chosen, left_out


def _representable(one: Subject, params: Any, format: str) -> None:  # noqa: A002
    if format == "hf" and one.layout.cosine:
        raise MismatchError("cosine attention cannot be represented in transformers' VideoMAE; use --format=videomae")
    if format == "hf" and one.layout.layer_scale:
        raise MismatchError("layer scale cannot be represented in transformers' VideoMAE; use --format=videomae")
    if format == "hf" and "decoder" in params and one.model.channels != 3 and not one.normalized_targets:
        raise MismatchError("transformers has no loss for raw pixels of other channels than RGB: export --part=encoder")
    if one.model.encoder.prefix:
        raise MismatchError("a class token exists neither in VideoMAE nor in transformers' form of it")
    if not sinusoidal(one):
        raise MismatchError("only the fixed 1-D sinusoid of positions exists in VideoMAE and in transformers")


def _finite(state: Mapping[str, np.ndarray]) -> None:
    for name, array in state.items():
        bad = int((~np.isfinite(array)).sum())
        if bad:
            raise MismatchError(f"{name} has {bad} values that are not finite")


def _cast(state: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    with np.errstate(over="ignore"):
        result = {name: np.ascontiguousarray(array.astype(DTYPES[dtype])) for name, array in state.items()}
    for name, array in result.items():
        if not np.isfinite(array.astype(np.float32)).all():
            raise MismatchError(f"{name} has values too large for {dtype}")
    return result


def _write_hf(
    folder: pathlib.Path,
    one: Subject,
    state: Mapping[str, np.ndarray],
    *,
    dims: Dims,
    dtype: str,
    labels: Sequence[str],
    params: Any,
    batch: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    folder.mkdir()
    theirs = _cast(huggingface.to_state(state, dims.kind), dtype)
    tensors.write_safetensors(folder / "model.safetensors", theirs, {})
    t, h, w, _ = one.model.video_shape
    config = huggingface.config(
        dims,
        heads=one.layout.heads,
        decoder_heads=one.layout.decoder_heads,
        frames=t,
        size=(h, w),
        dtype=dtype,
        normalized_targets=one.normalized_targets if dims.kind == "pretraining" else True,
        final_norm="encoder.norm.weight" in state,
        labels=labels if dims.kind == "classifier" else (),
    )
    prepare = huggingface.preprocessor(size=(h, w), mean=one.model.mean, std=one.model.std)
    for name, data in (("config.json", config), ("preprocessor_config.json", prepare)):
        (folder / name).write_text(huggingface.as_text(data), encoding="utf-8")
    if not verify.has_transformers():
        return _round_trip(folder, state, dtype, "transformers is not installed here, so its outputs were not compared")
    pixels = normalized(one.model, batch["video"])
    (compared, hidden), not_checked = outputs(one, params, batch), ""
    if "loss" in compared and not _imagenet(one):
        # transformers undoes ImageNet's normalisation of RGB alone before it makes its targets.
        del compared["loss"]
        not_checked = "the loss: transformers makes targets of RGB clips with ImageNet's statistics only"
    found = {}
    for name, ours_epsilon in (("differences", True), ("differences_as_loaded", False)):
        answers = verify.in_transformers(folder, pixels, hidden, our_epsilon=ours_epsilon)
        found[name] = verify.differences(compared, answers, relative=dtype != "float32")
    largest = verify.gate(found["differences"], dtype)
    by = f"transformers {importlib.metadata.version('transformers')}"
    return {"checked_by": by, "largest_difference": largest, **found, "not_checked": not_checked}


def _imagenet(one: Subject) -> bool:
    mean, std = huggingface.IMAGENET
    return one.model.channels == 3 and np.allclose(one.model.mean, mean) and np.allclose(one.model.std, std)


def _write_official(
    path: pathlib.Path,
    one: Subject,
    state: Mapping[str, np.ndarray],
    *,
    dims: Dims,
    dtype: str,
    labels: Sequence[str],
    params: Any,
    batch: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    del labels  # the official files have none
    cast = _cast(state, dtype)
    t, h, _, _ = one.model.video_shape
    about = {"num_frames": t, "image_size": h, "num_attention_heads": one.layout.heads}
    if dims.kind == "pretraining":
        about["decoder_num_attention_heads"] = one.layout.decoder_heads
    if path.suffix == ".safetensors":
        tensors.write_safetensors(path, cast, about)
    else:
        # The official code saves pre-training under "model" and, with DeepSpeed, fine-tuning under "module".
        write_pth(path, {"module" if dims.kind == "classifier" else "model": cast, "vmae_jax": about})
    if not verify.has_torch():
        return _round_trip(path, state, dtype, "PyTorch is not installed here, so its outputs were not compared")
    pixels = np.ascontiguousarray(normalized(one.model, batch["video"]).transpose(0, 2, 1, 3, 4))
    ours, hidden = outputs(one, params, batch)
    heads = {"heads": one.layout.heads, "decoder_heads": one.layout.decoder_heads}
    answers = verify.in_official(path, pixels, hidden, **heads)
    found = verify.differences(ours, answers, relative=dtype != "float32")
    by = f"PyTorch {importlib.metadata.version('torch')}"
    return {"checked_by": by, "largest_difference": verify.gate(found, dtype), "differences": found, "not_checked": ""}


def _round_trip(path: pathlib.Path, state: Mapping[str, np.ndarray], dtype: str, why: str) -> dict[str, Any]:
    """Reads the export back as `vmae import` would: the weights must be those that were written."""
    back = names.official(tensors.read_file(path)).state
    if set(back) != set(state):
        odd = sorted(set(back) ^ set(state))[0]
        raise MismatchError(f"verification failed: {odd} is not the same after reading the export back")
    expected = {name: array.astype(np.float32) for name, array in _cast(state, dtype).items()}
    for name, array in expected.items():
        if not np.array_equal(back[name].astype(np.float32), array):
            raise MismatchError(f"verification failed: {name} is not the same after reading the export back")
    found = verify.differences(state, expected)
    return {
        "checked_by": "round trip",
        "largest_difference": max(found.values()),
        "differences": {},
        "not_checked": why,
    }
