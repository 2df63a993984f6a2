"""Where weights come from: the checkpoints of a run, or a file in any layout that can be read."""

import pathlib
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from vmae_jax import spec
from vmae_jax.io.checkpoint import DamagedCheckpointError, locate, read_newest
from vmae_jax.io.paths import Workdir
from vmae_jax.io.run_config import read_config
from vmae_jax.spec import ConfigError
from vmae_jax.types import Method
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.infer import config_of
from vmae_jax.weights.layouts import names
from vmae_jax.weights.layouts.fit import fit
from vmae_jax.weights.layouts.videomae import MismatchError
from vmae_jax.weights.subject import Subject, fresh_params, subject

__all__ = ["Checkpoint", "load", "read_checkpoint"]


class Checkpoint(NamedTuple):
    """The parameters of a run at a step.

    Attributes:
      workdir: of the run.
      params: nested dicts of numpy arrays.
    """

    workdir: Workdir
    config: ConfigDict
    step: int
    params: Any


def read_checkpoint(path: Any, *, ema: bool = False) -> Checkpoint:
    """The parameters of a workdir's newest good step, or of WORKDIR/checkpoints/N.

    Raises:
      ConfigError: no run there, or one that keeps no average.
    """
    folder, _ = locate(path)
    workdir = Workdir(folder.parent)
    config = read_config(workdir)
    select = "extra/ema" if ema else "params"
    try:
        step, params = read_newest(path, select=select)
    except DamagedCheckpointError as error:
        raise ConfigError(str(error)) from error
    except ConfigError as error:
        if ema and select in str(error):
            raise ConfigError(f"{workdir.path} keeps no average of its parameters (train.ema_decay)") from None
        raise
    return Checkpoint(workdir, config, step, params)


def load(path: Any, *, ema: bool = False) -> tuple[Method, Any]:
    """The model of a run or of an export, ready to use.

    Args:
      path: a workdir or one of its checkpoints; a folder that transformers opens; a `.pth` or
        `.safetensors` file of VideoMAE, VideoMAE V2, MAE or MAE-ST.
      ema: of a run: the average of the parameters.

    Returns:
      (method, params): `method.features(params, {"video": uint8 [b t h w c]})` gives features;
      what a file does not say (a published model's heads, 16 frames) is taken from the papers.

    Raises:
      ConfigError: nothing readable there; one line that says why.
    """
    if _is_run(path):
        one = read_checkpoint(path, ema=ema)
        return spec.build(one.config.get("method"), "method"), one.params
    try:
        weights = names.official(tensors.read_file(path))
        one = subject(config_of(weights))
        return one.method, _params(one, weights)
    except (MismatchError, tensors.UnreadableFileError) as error:
        raise ConfigError(_named(path, error)) from None


def _params(one: Subject, weights: names.Weights) -> Any:
    """The parameters that the file has; parts it lacks (a decoder, a head) are left out."""
    absent = _absent(weights)
    template = fresh_params(one, 0 if "head" in absent and weights.kind == "classifier" else None)
    params, account = fit(weights, one.layout, template, one.model.grid, fresh=absent)
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
