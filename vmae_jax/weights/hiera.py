"""Weights of Hiera's code: configs of files in its layout, and their parameters."""

import math
from typing import Any

from ml_collections import ConfigDict

from vmae_jax.models.hiera_sizes import SIZES
from vmae_jax.models.variants import IMAGENET_MEAN, IMAGENET_STD
from vmae_jax.spec import call
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.layouts import hiera
from vmae_jax.weights.layouts.cropmae import stripped
from vmae_jax.weights.layouts.dims import check_axes, checked_heads, depth_of, mlp_ratio
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.published import floats
from vmae_jax.weights.subject import Subject

__all__ = ["MODEL", "config_of", "is_hiera", "params_of"]

MODEL = "models.hiera_sizes.hiera"
METHODS = ("methods.masked.build", "methods.classify.build")
DECODER_HEADS = 16  # of all published decoders, which files do not show
RATIOS = {True: 0.6, False: 0.9}  # of images and of videos


def is_hiera(file: tensors.File) -> bool:
    """Return whether a file has weights of a Hiera."""
    return hiera.is_hiera(stripped(file.state))


def config_of(file: tensors.File) -> ConfigDict:
    """Return a config with a section `method` that fits a file: a masked autoencoder or a classifier.

    Raises:
      MismatchError: if its shapes are those of no published size.
    """
    state = stripped(file.state)
    image = hiera.IMAGE in state
    needed = {"patch_embed.proj.weight": 4 if image else 5, "blocks.0.mlp.fc1.weight": 2}
    check_axes(state, needed | ({hiera.IMAGE: 3} if image else {hiera.SPACE: 3, hiera.TIME: 3}))
    width, channels, *kernel = state["patch_embed.proj.weight"].shape
    stages = hiera.stages_of(state)
    size = next((name for name, one in SIZES.items() if (one.width, one.stages) == (width, stages)), None)
    if size is None:
        raise MismatchError(f"a Hiera of width {width} with {list(stages)} blocks is none of {', '.join(SIZES)}")
    tubelet, patch = 1 if image else (kernel[0] + 1) // 2, (kernel[-1] + 1) // 2
    side = math.isqrt(state[hiera.IMAGE if image else hiera.SPACE].shape[1])
    mean, deviation = (list(IMAGENET_MEAN), list(IMAGENET_STD)) if image else ([0.45] * 3, [0.225] * 3)
    dims = {
        "size": size,
        "frames": 1 if image else state[hiera.TIME].shape[1] * tubelet,
        "resolution": side * patch,
        "channels": channels,
        "tubelet": tubelet,
        "patch": patch,
        "mlp_ratio": mlp_ratio(len(state["blocks.0.mlp.fc1.weight"]), width),
        "mean": mean,
        "std": deviation,
    }
    if hiera.HEAD in state:
        method = call(METHODS[1], model=call(MODEL, **dims, pools=3), classes=len(state[hiera.HEAD]))
    else:
        target = call("targets.pixels", mean=mean, deviation=deviation, joint=True, first=not image)
        random = call("masking.random", ratio=RATIOS[image], rounded_down="visible")
        method = call(
            METHODS[0],
            model=call(MODEL, **dims, **_decoder(state)),
            encoder_mask=call("masking.units", mask=random),
            objectives={"pixels": call("targets.core.objective", target=target)},
        )
    return ConfigDict({"method": method}, sort_keys=False, convert_dict=False)


def _decoder(state: Any) -> dict[str, int]:
    name = "decoder_embed.weight"
    if name not in state or state[name].ndim != 2:
        raise MismatchError(f"{name} is missing from the weights: neither a masked autoencoder nor a classifier")
    width = len(state[name])
    heads = checked_heads(DECODER_HEADS, width)
    return {"decoder_width": width, "decoder_depth": depth_of(state, "decoder_blocks"), "decoder_heads": heads}


def params_of(file: tensors.File, one: Subject, template: Any) -> Any:
    """Return our parameters from a file in the layout of Hiera's code.

    Args:
      file: the weights.
      one: the method that they are for.
      template: its parameters, for names and shapes.

    Raises:
      MismatchError: if it is another method, or the weights do not fit it.
    """
    node: Any = one.config.get("method")
    if node.call not in METHODS or node.model.call != MODEL:
        raise MismatchError(f"Hiera's layout is of {' and '.join(METHODS)} with a model of {MODEL}")
    return hiera.read(floats(stripped(file.state)), template)
