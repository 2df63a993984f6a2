"""Weights of V-JEPA, V-JEPA 2 and 2.1: files of their code and of transformers, configs of them, and exports."""

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
from vmae_jax.weights.layouts.dims import Dims, checked_heads, depth_of, mlp_ratio
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.published import cast, check_same, finite
from vmae_jax.weights.subject import Subject

__all__ = ["METHODS", "Loaded", "check", "config_of", "is_latent", "loaded", "params_of", "write", "write_hf"]

METHOD = "methods.latent.build"
DENSE = "methods.latent_dense.build"  # V-JEPA 2.1
METHODS = (METHOD, DENSE)
LEVELS = {12: (2, 5, 8, 11), 24: (5, 11, 17, 23), 40: (9, 19, 29, 39), 48: (11, 23, 37, 47)}  # of a depth, in 2.1
GRID = 16  # tokens a side of 2.1's pre-training
OF_PREDICTOR = ("predictor_modality",)  # what images have apart in the predictor; the rest is the encoder's
HEADS = {768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}  # of the published encoders, which files do not show
PREDICTOR_HEADS = 12  # of V-JEPA 2's predictors; V-JEPA's have as many as their encoders
FRAMES, SIZE = 16, 256
TOKENS = {METHOD: 10, DENSE: 8}  # mask tokens of the files of V-JEPA 2 and of 2.1
AVERAGES = ("target_encoder", "ema_encoder")
# What predicts and what is predicted, which weights do not show; the shares are those of the configs at 256 pixels.
MASKS = {
    "short": {"count": 8, "scale": 0.15, "context": 0.25, "targets": 0.46},
    "long": {"count": 2, "scale": 0.7, "context": 0.07, "targets": 0.7},
}
IMAGE_MASKS = {"blocks": {"count": 10, "scale": 0.15, "context": 0.17, "targets": 0.5}}


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
    dense = "norms_block.0.weight" in encoder
    if dense and "predictor_embed.0.weight" not in predictor:
        raise MismatchError("the predictor is that of a distilled V-JEPA 2.1, which there is no config of")
    name = "predictor_embed.2.weight" if dense else "predictor_embed.weight"
    kernel, project = (_array(encoder, "patch_embed.proj.weight", 5), _array(predictor, name, 2))
    width, channels, tubelet, patch = kernel.shape[:4]
    tokens = sum(name.startswith("mask_tokens.") for name in predictor)
    rotary = dense or bool(about.get("rotary", not (tokens == 2 and "pos_embed" in encoder)))
    places = {"pairing": "neighbours", "side": about.get("rotary_side", GRID)} if dense else {"pairing": "tiled"}
    size = about.get("image_size") or _side(encoder, tubelet) * patch or SIZE
    frames = about.get("num_frames", FRAMES)
    if any(type(number) is not int or number < 1 for number in (size, frames, tubelet, patch, channels)):
        raise MismatchError("the shapes of the weights are those of no model")
    heads = checked_heads(about.get("num_attention_heads", HEADS.get(width)), width)
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
        mlp_ratio=mlp_ratio(mlp, width),
        decoder_width=narrow,
        decoder_depth=below,
        decoder_heads=checked_heads(about.get("predictor_num_attention_heads", own), narrow),
        decoder_mlp_ratio=mlp_ratio(hidden, narrow),
        positions=call("models.rotary", **places) if rotary else call("models.positions.sincos_3d", cut=True),
        project_bias=True,
        initial="vjepa",
        mask_tokens=1 if rotary else tokens,
        levels=_levels(about, encoder, depth) if dense else [],
        modality=dense,
    )
    masks, images = (
        {name: call("masking.multiblock", **one) for name, one in named.items()} for named in (MASKS, IMAGE_MASKS)
    )
    method = call(DENSE if dense else METHOD, model=model, masks=masks, **({"images": images} if dense else {}))
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
        found[name], without = vjepa.read_network(state, one.facts, network(template, ours))
        left_out |= {f"{name}/{key}": why for key, why in without.items()}
    target = found.pop("target_encoder", None)
    return joined(found), None if target is None else joined({**found, "encoder": target}), left_out


def network(params: Any, name: str) -> Any:
    """Return the tree of an encoder or a predictor, with what images have apart under "image" (V-JEPA 2.1)."""
    if "image" not in params:
        return params[name]
    own = {key: tree for key, tree in params["image"].items() if (key in OF_PREDICTOR) == (name == "predictor")}
    return {**params[name], "image": own}


def joined(networks: Mapping[str, Any]) -> Any:
    """Return our tree of parameters from those of both networks: the inverse of `network`."""
    image = {key: tree for one in networks.values() for key, tree in one.get("image", {}).items()}
    found = {name: {key: tree for key, tree in one.items() if key != "image"} for name, one in networks.items()}
    return found | ({"image": image} if image else {})


def write(path: pathlib.Path, one: Subject, params: Any, average: Any, dtype: str) -> dict[str, np.ndarray]:
    """Write a checkpoint of V-JEPA's code, read it back, and return its tensors by network and name.

    Args:
      path: of a `.pth` file.
      one: the method.
      params: encoder and predictor.
      average: their average, whose encoder is the target encoder.
      dtype: of the tensors.

    Raises:
      MismatchError: if the layout has no place for the method or one of its parameters.
    """
    check(one)
    node = _node(one)
    tokens = TOKENS[node.call] if isinstance(one.model.encoder.positions, Rotary) else 0
    networks = {
        "encoder": vjepa.write_network(network(params, "encoder"), one.facts),
        "target_encoder": vjepa.write_network(network(average, "encoder"), one.facts),
        "predictor": vjepa.write_network(network(params, "predictor"), one.facts, tokens=tokens),
    }
    flat = {f"{name}/{key}": array for name, state in networks.items() for key, array in state.items()}
    finite(flat)
    written = {
        name: {f"{''.join(vjepa.PREFIXES)}{key}": array for key, array in cast(state, dtype).items()}
        for name, state in networks.items()
    }
    write_pth(path, {**written, "vmae_jax": _about(one)})
    back, target, _ = params_of(loaded(tensors.read_file(path)), one, params)
    check_same(back, params, dtype)
    check_same(network(target, "encoder"), network(average, "encoder"), dtype)
    return flat


def write_hf(folder: pathlib.Path, one: Subject, params: Any, dtype: str) -> dict[str, np.ndarray]:
    """Write a folder that transformers opens as V-JEPA 2, read it back, and return its tensors.

    Raises:
      MismatchError: if transformers' V-JEPA 2 has no place for the method or one of its parameters.
    """
    check(one)
    places, node = one.model.encoder.positions, _node(one)
    if node.call != METHOD or not isinstance(places, Rotary) or places.pairing != "tiled" or places.side is not None:
        raise MismatchError(
            "transformers has V-JEPA 2, with rotary positions and pairing='tiled', and this is another model: use "
            "--format=vjepa or params"
        )
    encoder = vjepa.write_network(params["encoder"], one.facts)
    predictor = vjepa.write_network(params["predictor"], one.facts, tokens=TOKENS[METHOD])
    state = vjepa.to_transformers(encoder, predictor)
    finite(state)
    folder.mkdir()
    tensors.write_safetensors(folder / "model.safetensors", cast(state, dtype), {})
    config = vjepa.config_of_transformers(one.model, tokens=TOKENS[METHOD], dtype=dtype)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    back, _, _ = params_of(loaded(tensors.read_file(folder)), one, params)
    check_same(back, params, dtype)
    return state


def _about(one: Subject) -> dict[str, Any]:
    """What the shapes of a file do not show."""
    t, h, _, _ = one.model.video_shape
    heads = {"num_attention_heads": one.facts.heads, "predictor_num_attention_heads": one.facts.decoder_heads}
    places = one.model.encoder.positions
    about = {"num_frames": t, "image_size": h, "rotary": isinstance(places, Rotary), **heads}
    if one.model.encoder.levels:
        about |= {"levels": list(one.model.encoder.levels), "rotary_side": places.side}
    return about


def _network(file: tensors.File, name: str) -> dict[str, np.ndarray]:
    start = f"{name}/"
    return {key.removeprefix(start): array for key, array in file.state.items() if key.startswith(start)}


def check(one: Subject) -> None:
    """Raise MismatchError if a method is not of the form that V-JEPA's code has."""
    node = _node(one)
    if node.call not in METHODS or one.model is None:
        raise MismatchError(f"V-JEPA's layout is of {' or '.join(METHODS)}, and the config has {node.call}")
    places, dense = one.model.encoder.positions, node.call == DENSE
    pairing = "neighbours" if dense else "tiled"
    if bool(one.model.encoder.levels) != dense or (isinstance(places, Rotary) and places.pairing != pairing):
        raise MismatchError(
            "the layouts of V-JEPA and V-JEPA 2 have the output of the last block alone and rotary positions with "
            "pairing='tiled', that of 2.1 has levels and pairing='neighbours'; this model differs: use --format=params"
        )
    if dense and not (isinstance(places, Rotary) and node.get("images")):
        raise MismatchError("V-JEPA 2.1's layout has rotary positions and images: use --format=params")


def _node(one: Subject) -> Any:
    return one.config.get("method")


def _array(state: Mapping[str, np.ndarray], name: str, axes: int) -> np.ndarray:
    if name not in state or state[name].ndim != axes or not state[name].size:
        raise MismatchError(f"{name} is missing from the weights, or does not have {axes} axes")
    return state[name]


def _levels(about: Mapping[str, Any], encoder: Mapping[str, np.ndarray], depth: int) -> list[int]:
    """The blocks whose outputs the norms of a file are of, which it does not show."""
    count = sum(name.startswith("norms_block.") and name.endswith(".weight") for name in encoder)
    levels = about.get("levels", LEVELS.get(depth))
    if not isinstance(levels, list | tuple) or len(levels) != count or any(type(one) is not int for one in levels):
        raise MismatchError(f"{shown(levels)}: {count} levels of an encoder of {depth} blocks; give --config")
    return list(levels)


def _side(encoder: Mapping[str, np.ndarray], tubelet: int) -> int:
    """The tokens a side of the table of positions of clips of 16 frames; 0 where there is none."""
    table = encoder.get("pos_embed")
    return 0 if table is None or table.ndim != 3 else math.isqrt(table.shape[1] * tubelet // FRAMES)
