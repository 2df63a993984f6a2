"""The weights of a run for a model of other clips, such as fine-tuning at another size."""

import logging
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vmae_jax import spec
from vmae_jax.io.checkpoint import locate, read_tree
from vmae_jax.io.paths import Workdir
from vmae_jax.io.run_config import read_config
from vmae_jax.models.positions import LEARNED, grids_of_tables
from vmae_jax.spec import ConfigError
from vmae_jax.weights.layouts import resize
from vmae_jax.weights.layouts.rules import MismatchError

__all__ = ["read_resized", "resized"]

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
    # Networks in `frozen` have their own models: frozen/teacher has that of method.teacher.
    root, *parts = select.split("/")
    model = "model" if root == "params" else parts.pop(0) if parts else ""
    if not isinstance(old, ConfigDict) or model not in old or "model" not in new:
        return tree, {}
    for name in reversed(parts):
        tree = {name: tree}
    try:
        tree, changed = resized(
            tree, spec.build(old[model], "model"), spec.build(new.model, "model"), channels=channels
        )
    except MismatchError as error:
        raise ConfigError(f"init_from: {path}: {error}") from None
    for name in parts:
        tree = tree[name]
    prefix = "".join(f"{name}/" for name in parts)
    return tree, {name.removeprefix(prefix): how for name, how in changed.items()}


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
            result[name] = _positions(result[name], old.grid, new.grid, name, changed)
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
