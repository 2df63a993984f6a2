"""Whether an export gives, in PyTorch, the outputs that the model has here."""

# pyright: reportMissingImports=false
# PyTorch and transformers are optional.

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vmae_jax.weights import torch_network
from vmae_jax.weights.formats.tensors import read_json
from vmae_jax.weights.layouts import vit_mae
from vmae_jax.weights.layouts.huggingface import ARCHITECTURES, is_spelling
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.layouts.videomae import Facts

__all__ = ["BOUNDS", "differences", "gate", "has_torch", "has_transformers", "in_official", "in_transformers"]

# The largest difference that passes: absolute in float32; in half precision, of weights that were
# rounded to 11 or 8 bits, over the largest output.
BOUNDS = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 8e-2}


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def has_transformers() -> bool:
    return has_torch() and importlib.util.find_spec("transformers") is not None


def in_transformers(
    folder: Any, pixels: np.ndarray, hidden: np.ndarray | None, *, our_epsilon: bool
) -> dict[str, np.ndarray]:
    """Outputs of an export opened by `from_pretrained`, computed in float32.

    Args:
      folder: of the export.
      pixels: normalised, [b t c h w].
      hidden: bool [b n], for a pre-training model.
      our_epsilon: set the eps of `decoder.norm` and `fc_norm`, which transformers fixes at 1e-5,
        to the 1e-6 that the model was trained with.

    Raises:
      MismatchError: transformers found a tensor missing, unexpected or of another shape.
    """
    import torch
    import transformers

    name = read_json(pathlib.Path(folder) / "config.json")["architectures"][0]
    if name not in (*ARCHITECTURES.values(), *vit_mae.ARCHITECTURES.values()):
        raise MismatchError(f"{folder}: {name} is not an architecture that is exported")
    model, info = getattr(transformers, name).from_pretrained(str(folder), output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        # One of the two spellings of the biases is always left over; the outputs show that the other was read.
        names = [str(name) for name in info.get(what) or () if what != "unexpected_keys" or not is_spelling(str(name))]
        if names:
            raise MismatchError(f"transformers reports {what}: {', '.join(names[:3])}")
    model = model.float().eval()
    if name in vit_mae.ARCHITECTURES.values():
        return _of_images(model, pixels[:, 0], hidden)
    if our_epsilon:
        for norm in (getattr(model, "fc_norm", None), getattr(getattr(model, "decoder", None), "norm", None)):
            if norm is not None:
                norm.eps = 1e-6
    video = torch.from_numpy(np.ascontiguousarray(pixels))
    with torch.no_grad():
        tokens = getattr(model, "videomae", model)(video).last_hidden_state
        result = {"tokens": tokens}
        if name == ARCHITECTURES["classifier"]:
            result |= {"features": model.fc_norm(tokens.mean(1)), "logits": model(video).logits}
        elif name == ARCHITECTURES["pretraining"]:
            assert hidden is not None
            answer = model(video, bool_masked_pos=torch.from_numpy(hidden))
            result |= {"prediction": answer.logits, "loss": answer.loss}
    return {key: np.asarray(value.numpy()) for key, value in result.items()}


def _of_images(model: Any, pixels: np.ndarray, hidden: np.ndarray | None) -> dict[str, np.ndarray]:
    """Outputs of a ViT-MAE, which takes the noise that its mask is drawn from: the smallest stay visible."""
    import torch

    images = torch.from_numpy(np.ascontiguousarray(pixels))
    ratio, count = model.config.mask_ratio, (images.shape[-1] // model.config.patch_size) ** 2
    order = torch.arange(count).expand(len(images), -1) / (2 * count)
    with torch.no_grad():
        model.config.mask_ratio = 0.0
        result = {"tokens": getattr(model, "vit", model)(images, noise=order).last_hidden_state[:, 1:]}
        model.config.mask_ratio = ratio
        if hidden is not None and hasattr(model, "decoder"):
            mask = torch.from_numpy(hidden)
            answer = model(images, noise=order + mask)
            prediction = answer.logits[mask].reshape(len(images), -1, answer.logits.shape[-1])
            result |= {"prediction": prediction, "loss": answer.loss}
    return {key: np.asarray(value.numpy()) for key, value in result.items()}


def in_official(path: Any, pixels: np.ndarray, hidden: np.ndarray | None, facts: Facts) -> dict[str, np.ndarray]:
    """Outputs of an export in the official names, read by PyTorch itself.

    Args:
      path: a `.pth` or `.safetensors` file.
      pixels: normalised, [b c t h w].
      hidden: bool [b n], True where a token is hidden from the encoder; None for a model without a decoder.
      facts: of the model.
    """
    import torch

    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(str(path))
    else:
        contents = torch.load(path, map_location="cpu", weights_only=True)
        state = contents.get("model", contents.get("module"))
    return torch_network.outputs(state, pixels, facts=facts, hidden=hidden)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, relative: bool = False) -> dict[str, float]:
    """The largest absolute difference of each output both have, optionally over the largest of ours.

    Raises:
      MismatchError: outputs of different shapes, or none in common.
    """
    result = {}
    for name in sorted(set(ours) & set(theirs)):
        a, b = np.asarray(ours[name], np.float64), np.asarray(theirs[name], np.float64)
        if a.shape != b.shape:
            raise MismatchError(f"{name} has shape {a.shape} here and {b.shape} there")
        scale = max(float(np.abs(a).max()), 1e-12) if relative else 1.0
        result[name] = float(np.abs(a - b).max()) / scale
    if not result:
        raise MismatchError("the export gives no output that could be compared")
    return result


def gate(found: Mapping[str, float], dtype: str) -> float:
    """The largest difference; raises MismatchError where it is above the bound of `dtype` or not a number."""
    worst = max(found, key=lambda name: found[name] if found[name] == found[name] else np.inf)
    if not found[worst] <= BOUNDS[dtype]:
        raise MismatchError(
            f"verification failed: {worst} differs by {found[worst]:.3g}, and {BOUNDS[dtype]:g} is allowed in {dtype}"
        )
    return found[worst]
