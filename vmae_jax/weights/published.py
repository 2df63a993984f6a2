"""Exports in published layouts: files for transformers, the official VideoMAE code, and MAE, each verified."""

import importlib.metadata
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict

from vmae_jax.weights import verify
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.formats.torch_write import write_pth
from vmae_jax.weights.layouts import huggingface, mae, names, vit_mae
from vmae_jax.weights.layouts.dims import Dims
from vmae_jax.weights.layouts.fit import fit
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.subject import Subject, normalized, outputs

__all__ = [
    "DTYPES",
    "Export",
    "cast",
    "check_same",
    "finite",
    "floats",
    "write_file",
    "write_hf",
    "write_mae",
    "write_official",
]

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


class Export(NamedTuple):
    """What is written in a published layout, and what it is compared on.

    Attributes:
      one: the model.
      params: its parameters.
      state: the same in the official names.
      dims: read off the state.
      dtype: of the tensors of the file.
      labels: class names of a classifier, in order; a layout without a place for them leaves them out.
      batch: a clip, and what is masked in it.
    """

    one: Subject
    params: Any
    state: Mapping[str, np.ndarray]
    dims: Dims
    dtype: str
    labels: Sequence[str]
    batch: Mapping[str, np.ndarray]


def finite(state: Mapping[str, np.ndarray]) -> None:
    """Raise MismatchError if a tensor has values that are not finite."""
    for name, array in state.items():
        bad = int((~np.isfinite(array)).sum())
        if bad:
            raise MismatchError(f"{name} has {bad} values that are not finite")


def floats(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return tensors as float32; raise MismatchError if one has values that are not finite."""
    found = {name: np.asarray(array, np.float32) for name, array in state.items()}
    finite(found)
    return found


def cast(state: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Return tensors in a dtype of `DTYPES`; raise MismatchError if a value is too large for it."""
    with np.errstate(over="ignore"):
        result = {name: np.ascontiguousarray(array.astype(DTYPES[dtype])) for name, array in state.items()}
    for name, array in result.items():
        if not np.isfinite(array.astype(np.float32)).all():
            raise MismatchError(f"{name} has values too large for {dtype}")
    return result


def write_hf(folder: pathlib.Path, made: Export) -> dict[str, Any]:
    """Write a folder that transformers opens, and compare its outputs there where it is installed."""
    one, dtype = made.one, made.dtype
    folder.mkdir()
    state, config, prepare = (_vit_mae if one.facts.image else _videomae)(made)
    tensors.write_safetensors(folder / "model.safetensors", cast(state, dtype), {})
    for name, data in (("config.json", config), ("preprocessor_config.json", prepare)):
        (folder / name).write_text(huggingface.as_text(data), encoding="utf-8")
    if not verify.has_transformers():
        return _round_trip(
            folder, made.state, dtype, "transformers is not installed here, so its outputs were not compared"
        )
    pixels = normalized(one.model, made.batch["video"])
    (compared, hidden), not_checked = outputs(one, made.params, made.batch), ""
    if "loss" in compared and (why := _other_targets(one)):
        del compared["loss"]
        not_checked = f"the loss: {why}"
    found = {}
    for name, ours_epsilon in (("differences", True), ("differences_as_loaded", False)):
        answers = verify.in_transformers(folder, pixels, hidden, our_epsilon=ours_epsilon)
        found[name] = verify.differences(compared, answers, relative=dtype != "float32")
    largest = verify.gate(found["differences"], dtype)
    by = f"transformers {importlib.metadata.version('transformers')}"
    return {"checked_by": by, "largest_difference": largest, **found, "not_checked": not_checked}


def _videomae(made: Export) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """Weights, config and preprocessor of transformers' VideoMAE."""
    one, dims = made.one, made.dims
    t, h, w, _ = one.model.video_shape
    config = huggingface.config(
        dims,
        heads=one.facts.heads,
        decoder_heads=one.facts.decoder_heads,
        frames=t,
        size=(h, w),
        dtype=made.dtype,
        normalized_targets=one.normalized_targets if dims.kind == "pretraining" else True,
        final_norm="encoder.norm.weight" in made.state,
        labels=made.labels if dims.kind == "classifier" else (),
    )
    prepare = huggingface.preprocessor(size=(h, w), mean=one.model.mean, std=one.model.std)
    return huggingface.to_state(made.state, dims.kind), config, prepare


def _vit_mae(made: Export) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """Weights, config and preprocessor of transformers' ViT-MAE."""
    one, dims = made.one, made.dims
    ratio, normalized = 0.75, True
    if one.masked is not None and one.masked.encoder_mask is not None:
        keep = one.masked.encoder_mask.keep(one.model.grid)
        # A little less than the share of hidden tokens: transformers rounds the visible ones down.
        ratio = 1 - (keep + 0.5) / one.model.grid.size
        normalized = one.normalized_targets if one.pixels else True
    size = one.model.video_shape[1]
    config = vit_mae.config(
        dims, one.facts, size=size, normalized_targets=normalized, mask_ratio=ratio, dtype=made.dtype
    )
    prepare = vit_mae.preprocessor(size=size, mean=one.model.mean, std=one.model.std)
    return vit_mae.to_state(made.state, one.facts, dims.kind), config, prepare


def _other_targets(one: Subject) -> str:
    """Why transformers makes other targets of a clip than the model was trained on; "" where they are the same."""
    assert one.masked is not None
    target, model = one.masked.objectives[str(one.pixels)].target, one.model
    if one.facts.image:
        scaled = np.allclose(target.mean, model.mean) and np.allclose(target.deviation, model.std)
        same = scaled and (target.joint or not target.normalize)
        return "" if same else "transformers' ViT-MAE normalises all channels of the model's input jointly"
    if target.joint or target.frames is not None:
        return "transformers' VideoMAE normalises each channel of whole cubes by itself"
    mean, std = huggingface.IMAGENET
    # It undoes ImageNet's normalisation of RGB alone before it makes its targets.
    if model.channels != 3 or not np.allclose(model.mean, mean) or not np.allclose(model.std, std):
        return "transformers makes targets of RGB clips with ImageNet's statistics only"
    return ""


def write_official(path: pathlib.Path, made: Export) -> dict[str, Any]:
    """Write a file that the official VideoMAE code loads, and compare outputs where PyTorch is installed."""
    one, dtype = made.one, made.dtype
    theirs = cast(made.state, dtype)
    t, h, _, _ = one.model.video_shape
    about = {"num_frames": t, "image_size": h, "num_attention_heads": one.facts.heads}
    if made.dims.kind == "pretraining":
        about["decoder_num_attention_heads"] = one.facts.decoder_heads
    # The official code saves pre-training under "model" and, with DeepSpeed, fine-tuning under "module".
    write_file(path, theirs, about, under="module" if made.dims.kind == "classifier" else "model")
    if not verify.has_torch():
        return _round_trip(path, made.state, dtype, "PyTorch is not installed here, so its outputs were not compared")
    pixels = np.ascontiguousarray(normalized(one.model, made.batch["video"]).transpose(0, 2, 1, 3, 4))
    ours, hidden = outputs(one, made.params, made.batch)
    answers = verify.in_official(path, pixels, hidden, one.facts)
    found = verify.differences(ours, answers, relative=dtype != "float32")
    by = f"PyTorch {importlib.metadata.version('torch')}"
    return {
        "checked_by": by,
        "largest_difference": verify.gate(found, dtype),
        "differences": found,
        "not_checked": "",
    }


def write_mae(path: pathlib.Path, made: Export) -> dict[str, Any]:
    """Write a file in the layout of MAE or MAE-ST, and import it again: the parameters must be the same."""
    one, dtype = made.one, made.dtype
    t, h, _, _ = one.model.video_shape
    theirs = cast(mae.to_state(made.state, one.facts, image=t == 1, fused=t == 1), dtype)
    about = {"num_frames": t, "tubelet_size": one.model.patch.t, "image_size": h}
    about |= {"num_attention_heads": one.facts.heads, "image_mean": list(one.model.mean)}
    about |= {"image_std": list(one.model.std)}
    about |= {"decoder_num_attention_heads": one.facts.decoder_heads} if made.dims.kind == "pretraining" else {}
    write_file(path, theirs, about)
    back, _ = fit(names.official(tensors.read_file(path)), one.facts, made.params, one.model.grid)
    check_same(back, made.params, dtype)
    return {
        "checked_by": "round trip",
        "largest_difference": 0.0,
        "differences": {},
        "not_checked": "outputs: the parameters are the same after an import of the export",
    }


def write_file(path: pathlib.Path, state: Mapping[str, Any], about: Mapping[str, Any], *, under: str = "model") -> None:
    """Write a state dict as .safetensors or, below a name, as .pth, with facts that its shapes do not show."""
    if path.suffix == ".safetensors":
        tensors.write_safetensors(path, state, about)
    else:
        write_pth(path, {under: state, "vmae_jax": about})


def check_same(read: Any, params: Any, dtype: str) -> None:
    """Raise MismatchError if parameters that were read back from a file of a dtype differ from those written."""
    found = flatten_dict(read, sep="/")
    for name, array in flatten_dict(params, sep="/").items():
        # What a half-precision file adds up (a token and its position) is rounded once.
        if not np.array_equal(np.asarray(found[name]), np.asarray(array).astype(DTYPES[dtype]).astype(np.float32)):
            raise MismatchError(f"verification failed: {name} is not the same after reading the export back")


def _round_trip(path: pathlib.Path, state: Mapping[str, np.ndarray], dtype: str, why: str) -> dict[str, Any]:
    """Read the export back as `vmae import` would: the weights must be those that were written."""
    back = names.official(tensors.read_file(path)).state
    # A file has the positions that the model computes, which are no parameters.
    back = {name: array for name, array in back.items() if name in state or "pos_embed" not in name}
    # The patch embedding of images has no axis of time there.
    back = {name: array[:, :, None] if array.ndim == 4 else array for name, array in back.items()}
    if set(back) != set(state):
        odd = sorted(set(back) ^ set(state))[0]
        raise MismatchError(f"verification failed: {odd} is not the same after reading the export back")
    expected = {name: array.astype(np.float32) for name, array in cast(state, dtype).items()}
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
