"""Parameters under their own names, for models without a published layout.

A `.safetensors` file with "encoder/blocks/mlp/fc1/kernel" and so on, and in its header the config's method. Any
tower of any method can be stored this way, including those of plugins and frozen networks.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from vmae_jax.io.checkpoint import read_tree
from vmae_jax.spec import ConfigError, from_json, to_json
from vmae_jax.version import VERSION
from vmae_jax.weights.checkpoint import Checkpoint
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.layouts.fit import Account
from vmae_jax.weights.layouts.rules import MismatchError

__all__ = ["config_of", "is_own", "params_of", "tower", "write"]

ABOUT = "vmae_jax_params"  # in the header of the file


def tower(source: Checkpoint, part: str) -> tuple[Any, bool]:
    """Return a part of a checkpoint by name, and whether it is of the trained parameters.

    Args:
      part: "all" for all trained parameters, the name of one of their towers, or of a frozen network.

    Raises:
      ConfigError: if there is no such tower.
    """
    if part == "all":
        return source.params, True
    if part in source.params:
        return {part: source.params[part]}, True
    try:
        return read_tree(source.workdir.checkpoints / str(source.step), select=f"frozen/{part}"), False
    except ConfigError:
        known = ", ".join(["all", *source.params])
        raise ConfigError(
            f"--part={part}: no tower and no frozen network of that name is in the checkpoint; its towers are {known}"
        ) from None


def write(path: pathlib.Path, params: Any, config: ConfigDict | None, dtype: Any) -> dict[str, np.ndarray]:
    """Write parameters; read them back and raise MismatchError if a bit of them differs.

    Args:
      config: whose section `method` is stored in the file, so that it opens without another; or None.
      dtype: of floating-point parameters in the file.

    Returns:
      the contents of the file, by name.
    """
    state = {}
    for name, array in flatten_dict(params, sep="/").items():
        array = np.asarray(array)
        state[name] = np.ascontiguousarray(array.astype(dtype) if array.dtype.kind == "f" else array)
        if not np.isfinite(state[name].astype(np.float32)).all():
            raise MismatchError(f"{name} has values that are not finite, or too large for {np.dtype(dtype).name}")
    about: dict[str, Any] = {"version": VERSION}
    if config is not None:
        only = ConfigDict({"method": config.method}, convert_dict=False)
        about["config"] = json.loads(to_json(only))
    tensors.write_safetensors(path, state, {ABOUT: about})
    back = tensors.read_file(path).state
    for name, array in state.items():
        if name not in back or not np.array_equal(back[name], array):
            raise MismatchError(f"verification failed: {name} is not the same after reading the export back")
    return state


def is_own(file: tensors.File) -> bool:
    """Return whether a file has parameters under their own names."""
    return isinstance(file.about.get(ABOUT), Mapping)


def config_of(file: tensors.File) -> ConfigDict | None:
    """Return the config stored in the file, or None.

    Raises:
      ConfigError: if it is damaged.
    """
    config = file.about[ABOUT].get("config")
    return None if config is None else from_json(json.dumps(config))


def params_of(file: tensors.File, template: Any, fresh: Sequence[str] = ()) -> tuple[Any, Account]:
    """Return the parameters of a model from a file, with a record of each.

    Args:
      template: initialized parameters of the model.
      fresh: towers that stay initialized, even if the file has them.

    Raises:
      MismatchError: if a parameter is missing, left over, of another shape or not finite.
    """
    unknown = [name for name in fresh if name not in template]
    if unknown:
        raise MismatchError(f"there is no tower {unknown[0]!r} to initialize: {', '.join(template)}")
    want: dict[str, Any] = dict(flatten_dict(template, sep="/"))
    found: dict[str, Any] = {}
    begun, dropped = [], {}
    for name, own in want.items():
        top = name.partition("/")[0]
        if top in fresh:
            begun.append(name)
            found[name] = own
            continue
        if name not in file.state:
            hint = f": --fresh={top} begins with a new one" if top in template else ""
            raise MismatchError(f"the weights have no {name}{hint}")
        array = np.asarray(file.state[name])
        if array.shape != own.shape:
            raise MismatchError(f"{name} has shape {list(array.shape)}, the model's has {list(own.shape)}")
        with np.errstate(over="ignore"):
            found[name] = array.astype(own.dtype)
        if not np.isfinite(found[name]).all():
            raise MismatchError(f"{name} has values that are not finite, or too large for {own.dtype}")
    for name in file.state:
        top = name.partition("/")[0]
        if name not in want and top in template and top not in fresh:
            raise MismatchError(f"the model has no place for {name}")
        if name not in want or top in fresh:
            dropped[name] = (
                f"the model's {top} is initialized, as requested" if top in fresh else f"the model has no {top}"
            )
    used = tuple(sorted(set(want) - set(begun)))
    return unflatten_dict(found, sep="/"), Account(used, tuple(sorted(begun)), dropped, {})
