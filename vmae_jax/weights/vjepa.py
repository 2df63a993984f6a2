"""Weights of V-JEPA and V-JEPA 2: files of their code and of transformers, configs of them, and exports."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vmae_jax.models.rotary import Rotary
from vmae_jax.spec import call
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.formats.checks import shown
from vmae_jax.weights.formats.torch_write import write_pth
from vmae_jax.weights.infer import check_size
from vmae_jax.weights.layouts import vjepa
from vmae_jax.weights.layouts.dims import Dims, depth_of
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.published import cast, check_same, finite
from vmae_jax.weights.subject import Subject

__all__ = ["METHOD", "Loaded", "check", "config_of", "is_latent", "loaded", "params_of", "write", "write_hf"]

METHOD = "methods.latent.build"
HEADS = {768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}  # of the published encoders, which files do not show
PREDICTOR_HEADS = 12  # of V-JEPA 2's predictors; V-JEPA's have as many as their encoders
FRAMES, SIZE = 16, 256
TOKENS = 10  # mask tokens of V-JEPA 2's files: two masks times five datasets
AVERAGES = ("target_encoder", "ema_encoder")
# What predicts and what is predicted, where weights do not say; the shares are those of the configs at 256 pixels.
MASKS = {
    "short": {"count": 8, "scale": 0.15, "context": 0.25, "targets": 0.46},
    "long": {"count": 2, "scale": 0.7, "context": 0.07, "targets": 0.7},
}


class Loaded(NamedTuple):
    """The networks of a file under official names, without prefixes.

    Attributes:
      networks: "encoder", "predictor" and perhaps "target_encoder".
      about: numbers of heads, frames and pixels that the file states.
    """

    networks: Mapping[str, Mapping[str, np.ndarray]]
    about: Mapping[str, Any]


def is_latent(file: tensors.File) -> bool:
    """Return whether a file has an encoder and a predictor of V-JEPA, in either layout."""
    return vjepa.is_transformers(file.state) or vjepa.is_vjepa(_network(file, "predictor"))


def loaded(file: tensors.File) -> Loaded:
    """Return the networks of a file.

    Raises:
      MismatchError: if there is no encoder, or values are not finite.
    """
    if vjepa.is_transformers(file.state):
        networks, about = vjepa.from_transformers(file.state), vjepa.facts_of_transformers(file.about)
    else:
        networks = {name: vjepa.stripped(_network(file, name)) for name in ("encoder", "predictor", *AVERAGES)}
        networks = {("target_encoder" if name in AVERAGES else name): one for name, one in networks.items() if one}
        about = dict(file.about)
    if not networks.get("encoder"):
        raise MismatchError("the file has a predictor of V-JEPA and no encoder")
    networks = {
        name: {key: np.asarray(array, np.float32) for key, array in one.items()} for name, one in networks.items()
    }
    for one in networks.values():
        finite(one)
    return Loaded(networks, about)


def config_of(given: Loaded) -> ConfigDict:
    """Return a config with a section `method` that fits a file.

    Raises:
      MismatchError: if its shapes are those of no such model.
    """
    encoder, predictor, about = given.networks["encoder"], given.networks["predictor"], given.about
    kernel, project = (_array(encoder, "patch_embed.proj.weight", 5), _array(predictor, "predictor_embed.weight", 2))
    width, channels, tubelet, patch = kernel.shape[:4]
    tokens = sum(name.startswith("mask_tokens.") for name in predictor)
    rotary = bool(about.get("rotary", not (tokens == 2 and "pos_embed" in encoder)))
    size = about.get("image_size") or _side(encoder, tubelet) * patch or SIZE
    frames = about.get("num_frames", FRAMES)
    if any(type(number) is not int or number < 1 for number in (size, frames, tubelet, patch, channels)):
        raise MismatchError("the shapes of the weights are those of no model")
    heads = _heads(about.get("num_attention_heads", HEADS.get(width)), width)
    own = PREDICTOR_HEADS if rotary else heads
    mlp, hidden = (
        len(_array(state, f"{name}.0.mlp.fc1.weight", 2))
        for state, name in ((encoder, "blocks"), (predictor, "predictor_blocks"))
    )
    narrow, depth, below = len(project), depth_of(encoder, "blocks"), depth_of(predictor, "predictor_blocks")
    dims = Dims("pretraining", width, depth, mlp, patch, tubelet, channels, narrow, below, hidden)
    check_size(encoder, dims, (frames // tubelet) * (size // patch) ** 2)
    model = call(
        "models.variants.vit",
        size="B",
        frames=frames,
        resolution=size,
        channels=channels,
        tubelet=tubelet,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=vjepa.ratio(mlp, width),
        decoder_width=narrow,
        decoder_depth=below,
        decoder_heads=_heads(about.get("predictor_num_attention_heads", own), narrow),
        decoder_mlp_ratio=vjepa.ratio(hidden, narrow),
        positions=call("models.rotary", pairing="tiled") if rotary else call("models.positions.sincos_3d", cut=True),
        project_bias=True,
        initial="vjepa",
        mask_tokens=1 if rotary else tokens,
    )
    masks = {name: call("masking.multiblock", **one) for name, one in MASKS.items()}
    method = call(METHOD, model=model, masks=masks)
    return ConfigDict({"method": method}, sort_keys=False, convert_dict=False)


def params_of(given: Loaded, one: Subject, template: Any) -> tuple[Any, Any, dict[str, str]]:
    """Return our parameters, their average with the target encoder of the file, and what was left out.

    Args:
      given: the file.
      one: the method that they are for.
      template: its parameters, for names and shapes.

    Raises:
      MismatchError: if it is another method, or the weights do not fit it.
    """
    check(one)
    left_out: dict[str, str] = {}
    found: dict[str, Any] = {}
    for name, state in given.networks.items():
        ours = "predictor" if name == "predictor" else "encoder"
        found[name], without = vjepa.read_network(state, one.facts, template[ours])
        left_out |= {f"{name}/{key}": why for key, why in without.items()}
    target = found.pop("target_encoder", None)
    return found, None if target is None else {**found, "encoder": target}, left_out


def write(path: pathlib.Path, one: Subject, params: Any, target: Any, dtype: str) -> dict[str, np.ndarray]:
    """Write a checkpoint of V-JEPA's code, read it back, and return its tensors by network and name.

    Args:
      path: of a `.pth` file.
      one: the method.
      params: encoder and predictor.
      target: the target encoder.
      dtype: of the tensors.

    Raises:
      MismatchError: if the layout has no place for the method or one of its parameters.
    """
    check(one)
    rotary = isinstance(one.model.encoder.positions, Rotary)
    networks = {
        "encoder": vjepa.write_network(params["encoder"], one.facts),
        "target_encoder": vjepa.write_network(target, one.facts),
        "predictor": vjepa.write_network(params["predictor"], one.facts, tokens=TOKENS if rotary else 0),
    }
    flat = {f"{name}/{key}": array for name, state in networks.items() for key, array in state.items()}
    finite(flat)
    written = {
        name: {f"{''.join(vjepa.PREFIXES)}{key}": array for key, array in cast(state, dtype).items()}
        for name, state in networks.items()
    }
    write_pth(path, {**written, "vmae_jax": _about(one)})
    back, average, _ = params_of(loaded(tensors.read_file(path)), one, params)
    check_same(back, params, dtype)
    check_same(average["encoder"], target, dtype)
    return flat


def write_hf(folder: pathlib.Path, one: Subject, params: Any, dtype: str) -> dict[str, np.ndarray]:
    """Write a folder that transformers opens as V-JEPA 2, read it back, and return its tensors.

    Raises:
      MismatchError: if transformers' V-JEPA 2 has no place for the method or one of its parameters.
    """
    check(one)
    places = one.model.encoder.positions
    if not isinstance(places, Rotary) or places.pairing != "tiled" or places.side is not None:
        raise MismatchError(
            "transformers' V-JEPA 2 has rotary positions with pairing='tiled', this model others: use --format=params"
        )
    encoder = vjepa.write_network(params["encoder"], one.facts)
    predictor = vjepa.write_network(params["predictor"], one.facts, tokens=TOKENS)
    state = vjepa.to_transformers(encoder, predictor)
    finite(state)
    folder.mkdir()
    tensors.write_safetensors(folder / "model.safetensors", cast(state, dtype), {})
    config = vjepa.config_of_transformers(one.model, tokens=TOKENS, dtype=dtype)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    back, _, _ = params_of(loaded(tensors.read_file(folder)), one, params)
    check_same(back, params, dtype)
    return state


def _about(one: Subject) -> dict[str, Any]:
    """What the shapes of a file do not show."""
    t, h, _, _ = one.model.video_shape
    heads = {"num_attention_heads": one.facts.heads, "predictor_num_attention_heads": one.facts.decoder_heads}
    return {"num_frames": t, "image_size": h, "rotary": isinstance(one.model.encoder.positions, Rotary), **heads}


def _network(file: tensors.File, name: str) -> dict[str, np.ndarray]:
    start = f"{name}/"
    return {key.removeprefix(start): array for key, array in file.state.items() if key.startswith(start)}


def check(one: Subject) -> None:
    """Raise MismatchError if a method is not of the form that V-JEPA's code has."""
    node: Any = one.config.get("method")
    if node.call != METHOD or one.model is None:
        raise MismatchError(f"V-JEPA's layout is of {METHOD}, and the config has {node.call}")
    places = one.model.encoder.positions
    if one.model.encoder.levels or (isinstance(places, Rotary) and places.pairing != "tiled"):
        raise MismatchError(
            "V-JEPA's and V-JEPA 2's layout has the output of the last block alone, and rotary positions with "
            "pairing='tiled'; this model differs: use --format=params"
        )


def _array(state: Mapping[str, np.ndarray], name: str, axes: int) -> np.ndarray:
    if name not in state or state[name].ndim != axes or not state[name].size:
        raise MismatchError(f"{name} is missing from the weights, or does not have {axes} axes")
    return state[name]


def _heads(heads: Any, width: int) -> int:
    """Check a number of heads, of the file's own config or of the published models."""
    if type(heads) is not int or not 0 < heads <= width or width % heads:
        raise MismatchError(f"{shown(heads)} attention heads of a width of {width}: give --config")
    return heads


def _side(encoder: Mapping[str, np.ndarray], tubelet: int) -> int:
    """The tokens a side of the table of positions of clips of 16 frames; 0 where there is none."""
    table = encoder.get("pos_embed")
    return 0 if table is None or table.ndim != 3 else math.isqrt(table.shape[1] * tubelet // FRAMES)
