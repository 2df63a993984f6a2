"""`load`: a method and its parameters from a run, or from a file in any known layout."""

import pathlib
from typing import Any

from etils import epath

from vmae_jax import spec
from vmae_jax.spec import ConfigError
from vmae_jax.types import Method
from vmae_jax.weights import own
from vmae_jax.weights.checkpoint import read_checkpoint
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.infer import config_of
from vmae_jax.weights.layouts import names
from vmae_jax.weights.layouts.fit import fit
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.subject import Subject, fresh_params, subject

__all__ = ["load"]


def load(path: Any, *, ema: bool = False) -> tuple[Method, Any]:
    """Load the model of a run or of an export, ready to use.

    Args:
      path: a workdir or one of its checkpoints; a folder that transformers opens; a `.pth` or
        `.safetensors` file of VideoMAE, VideoMAE V2, MAE or MAE-ST, or one of `vmae export --format=params`.
      ema: whether to load the exponential moving average of the parameters (runs only).

    Returns:
      (method, params): `method.features(params, {"video": uint8 [b t h w c]})` returns features;
      values that a file lacks (a published model's heads, 16 frames) are taken from the papers.

    Raises:
      ConfigError: if nothing can be read there.
    """
    if _is_run(path):
        one = read_checkpoint(path, ema=ema)
        return spec.build(one.config.get("method"), "method"), one.params
    try:
        file = tensors.read_file(path)
        if own.is_own(file):
            return _own(file)
        weights = names.official(file)
        one = subject(config_of(weights))
        return one.method, _params(one, weights)
    except (MismatchError, tensors.UnreadableFileError) as error:
        raise ConfigError(_named(path, error)) from None


def _own(file: tensors.File) -> tuple[Method, Any]:
    """Return the method stored in a file of own names, and the towers of the file."""
    config = own.config_of(file)
    if config is None:
        raise MismatchError("the file has a network without the method that it belongs to: use `vmae import --config`")
    one = subject(config)
    has = {name.partition("/")[0] for name in file.state}
    template = {name: tree for name, tree in fresh_params(one, None).items() if name in has}
    return one.method, own.params_of(file, template)[0]


def _params(one: Subject, weights: names.Weights) -> Any:
    """Return the parameters in the file, without parts that it lacks (a decoder, a head)."""
    absent = _absent(weights)
    template = fresh_params(one, 0 if "head" in absent and weights.kind == "classifier" else None)
    params, account = fit(weights, one.facts, template, one.model.grid, fresh=absent)
    if any(name.startswith(("decoder.", "mask_token")) for name in account.fresh):
        params = {name: value for name, value in params.items() if name != "decoder"}
    return params


def _absent(weights: names.Weights) -> list[str]:
    has = {"decoder": weights.kind == "pretraining", "head": "head.weight" in weights.state}
    return [part for part, there in has.items() if not there]


def _is_run(path: Any) -> bool:
    path = epath.Path(path)
    if path.name.isdigit() or (path / "checkpoints").exists():
        return True
    return path.is_dir() and not any((path / name).exists() for name in (*tensors.SINGLES, *tensors.INDICES))


def _named(path: Any, error: Exception) -> str:
    text = str(error)
    return text if str(pathlib.Path(path)) in text else f"{path}: {text}"
