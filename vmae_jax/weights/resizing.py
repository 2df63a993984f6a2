"""The weights of a run for a model of other clips, such as fine-tuning at another size."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vmae_jax import spec
from vmae_jax.io.checkpoint import locate, read_tree
from vmae_jax.io.paths import Workdir
from vmae_jax.io.run_config import read_config
from vmae_jax.models.hiera import Hiera
from vmae_jax.models.positions import LEARNED, grids_of_tables
from vmae_jax.models.spectrogram import Spectrogram
from vmae_jax.spec import ConfigError
from vmae_jax.types import Grid
from vmae_jax.weights.layouts import resize
from vmae_jax.weights.layouts.rules import MismatchError

__all__ = ["model_of", "read_resized", "resized"]

log = logging.getLogger(__name__)


def read_resized(
    path: Any, config: ConfigDict, *, select: str = "params", ema: bool = False, channels: str = "cycle"
) -> tuple[Any, dict[str, str]]:
    """Return the part `select` of a run's parameters, resampled for the model of `config`.

    For `init_from`: cubes, channels and learned positions that differ are resampled; otherwise the arrays are
    the saved ones.

    Args:
      path: a workdir or one of its checkpoints.
      config: of the new run.
      select: "params", "frozen/NAME" (a teacher's), or any part of them.
      ema: the average of the parameters instead.
      channels: the kernels of another number of channels, "cycle" or "keep".

    Returns:
      the tree relative to `select`, and descriptions of the changes by path.

    Raises:
      ConfigError: if there is no such run or part, or it is a single array that would have to be resampled.
    """
    where = "extra/ema" + select.removeprefix("params") if ema and select.split("/")[0] == "params" else select
    tree = read_tree(path, select=where)
    if not isinstance(tree, Mapping):
        raise ConfigError(f"init_from: select={select!r} is one array; select {select.rpartition('/')[0]!r}")
    folder, _ = locate(path)
    old: Any = read_config(Workdir(folder.parent)).get("method")
    new: Any = config.method
    model, parts = model_of(old, select)
    if model is None or "model" not in new:
        return tree, {}
    for name in reversed(parts):
        tree = {name: tree}
    try:
        tree, changed = resized(
            tree, *_alike(spec.build(model, "model"), spec.build(new.model, "model")), channels=channels
        )
    except MismatchError as error:
        raise ConfigError(f"init_from: {path}: {error}") from None
    for name in parts:
        tree = tree[name]
    prefix = "".join(f"{name}/" for name in parts)
    return tree, {name.removeprefix(prefix): how for name, how in changed.items()}


def model_of(method: Any, select: str) -> tuple[Any, list[str]]:
    """Return the model in the config of a method that a part of its state is of, and that part's path in the model."""
    root, *parts = select.split("/")
    if not isinstance(method, ConfigDict):
        return None, parts
    if root != "params":  # networks in `frozen` have their own models: frozen/teacher has that of method.teacher
        return (method.get(parts[0]), parts[1:]) if parts else (None, parts)
    modalities: Any = method.get("modalities") or {}
    if parts and parts[0] in modalities:  # the parameters of an encoder, by the name of its modality
        return modalities[parts[0]].model, ["encoder", *parts[1:]]
    return method.get("model"), parts


def _alike(old: Any, new: Any) -> tuple[Any, Any]:
    """Return two models, the first of them as one of spectrograms if it reads images and the second spectrograms.

    The rows of an image become time, as its patches have one order: rows first.

    Raises:
      MismatchError: if one reads videos and the other spectrograms, whose axes have nothing in common.
    """
    if isinstance(new, Spectrogram) and not isinstance(old, Spectrogram) and old.grid.t == old.patch.t == 1:
        patch = old.patch._replace(t=old.patch.h, h=old.patch.w, w=1)
        return dataclasses.replace(old, patch=patch, grid=Grid(old.grid.h, old.grid.w, 1)), new
    if isinstance(new, Spectrogram) != isinstance(old, Spectrogram):
        one, other = ("of spectrograms" if isinstance(model, Spectrogram) else "of videos" for model in (old, new))
        raise MismatchError(f"weights {one} do not fit a model {other}; give those of an image model or of its kind")
    return old, new


def resized(params: Any, old: Any, new: Any, *, channels: str = "cycle") -> tuple[Any, dict[str, str]]:
    """Return parameters of the model `old` for the model `new` (`models.variants.Model`).

    Only cubes, channels and the grid may differ; of the decoder, the heads that predict pixels.
    """
    cube = lambda model: (*model.patch, model.channels)  # noqa: E731
    was, will = cube(old), cube(new)
    changed: dict[str, str] = {}
    result = dict(params)
    for name in ("encoder", "decoder"):
        if name in result:
            result[name] = _positions(result[name], _grid(old, name), _grid(new, name), name, changed)
    if was == will:
        return result, changed
    description = f"resampled from cubes of {'x'.join(map(str, was))} to {'x'.join(map(str, will))} (t x y x c)"
    if "embed" in result.get("encoder", {}):
        embed = result["encoder"]["embed"]
        kernel = embed["kernel"].reshape(*was, -1).transpose(4, 3, 0, 1, 2)  # [d c t y x]
        kernel = resize.embedding(kernel, will[:3], will[3], rule=channels)
        kernel = kernel.transpose(2, 3, 4, 1, 0).reshape(-1, kernel.shape[0])
        result["encoder"] = result["encoder"] | {"embed": embed | {"kernel": kernel}}
        changed["encoder/embed/kernel"] = description
    size = was[0] * was[1] * was[2] * was[3]
    for name, head in result.get("decoder", {}).items():
        if name.startswith("head_") and head["bias"].shape == (size,):
            kernel, bias = resize.head(head["kernel"].T, head["bias"], was, will)
            result["decoder"] = result["decoder"] | {name: {"kernel": kernel.T, "bias": bias}}
            changed |= dict.fromkeys((f"decoder/{name}/kernel", f"decoder/{name}/bias"), description)
    return result, changed


def _grid(model: Any, name: str) -> Grid:
    """Return the grid of the positions of an encoder or decoder; Hiera's encoder has them before its poolings."""
    return model.encoder.fine if name == "encoder" and isinstance(model.encoder, Hiera) else model.grid


def _positions(tree: Any, old: Any, new: Any, name: str, changed: dict[str, str]) -> Any:
    """Learned tables for another grid."""
    grids = grids_of_tables(old, new)
    whole = len(tree) > 1  # of a part nothing is known
    if whole and old != new and not any(tree.get(module) for module in LEARNED):
        log.info("the %s's fixed positions are computed for a grid of %s tokens instead of %s", name, new, old)
    for module in LEARNED:
        tables = tree.get(module, {})
        resized_tables = {leaf: resize.positions(table, *grids[leaf]) for leaf, table in tables.items()}
        for leaf in tables:
            if resized_tables[leaf].shape != tables[leaf].shape:
                changed[f"{name}/{module}/{leaf}"] = f"resized from a grid of {old} to {new} tokens"
        if tables:
            tree = tree | {module: resized_tables}
    return tree
