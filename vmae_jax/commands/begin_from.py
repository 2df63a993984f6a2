"""Initialization of a stage from the weights of another, resized to its model and its classes.

`config.init_from` maps places to `train.init_from.weights`. Where the clips or cubes of the two models differ,
weights are resampled. With lists of labels, the rows of the head are matched by class name. The source of every array
is recorded in `init_from.json` of the workdir.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from vmae_jax.data.catalogs.kinetics import RENAMES
from vmae_jax.data.labels import read_names
from vmae_jax.io.checkpoint import locate, read_tree
from vmae_jax.io.paths import saved_config, write_text
from vmae_jax.spec import ConfigError, build, did_you_mean, from_json
from vmae_jax.train import init_from
from vmae_jax.train.state import TrainState
from vmae_jax.weights.resizing import model_of, read_resized

__all__ = ["begin_from", "check_places", "keep", "rows_by_name"]

VIT = "models.variants.vit"
MODELS = (VIT, "models.spectrogram")


def begin_from(
    state: TrainState, places: Mapping[str, init_from.Weights], config: ConfigDict
) -> tuple[TrainState, tuple[init_from.Report, ...]]:
    """Load saved weights into a fresh state; return it and a report about every array.

    Args:
      state: at step 0.
      places: the weights of each place, as built from `config.init_from`.
      config: of the new run.

    Raises:
      ConfigError: if weights or a place do not exist, or they do not fit.
    """
    reports: list[init_from.Report] = []
    for at, record in places.items():
        state, found = init_from.apply(state, {at: record}, functools.partial(_read, at, config))
        reports += found
    return state, tuple(reports)


def check_places(places: Mapping[str, init_from.Weights]) -> None:
    """Check that the weights of every place exist, before a state is created for them.

    Raises:
      ConfigError: if there is no checkpoint at one of the paths.
    """
    for at, record in places.items():
        try:
            locate(record.path)
        except ConfigError as error:
            raise ConfigError(f"init_from.{at}: {error}") from error


def rows_by_name(old: Sequence[str], new: Sequence[str]) -> list[int]:
    """Return the index in `old` of each name of `new`, regardless of case; older names of Kinetics are known.

    Raises:
      ConfigError: if `old` lacks a name.
    """
    place = {_plain(name): i for i, name in enumerate(old)}
    newer = {_plain(older): _plain(name) for older, name in RENAMES.items()}
    rows = [place.get(_plain(name), place.get(newer.get(_plain(name), ""))) for name in new]
    absent = [name for name, row in zip(new, rows, strict=True) if row is None]
    if absent:
        shown = ", ".join(repr(name) for name in absent[:3]) + (f" and {len(absent) - 3} more" if absent[3:] else "")
        hint = did_you_mean(_plain(absent[0]), place)
        raise ConfigError(f"init_from: the saved classes have no {shown}{hint}")
    return [row for row in rows if row is not None]


def keep(path: epath.Path, reports: Sequence[init_from.Report]) -> None:
    """Write the reports about every array, by place."""
    write_text(path, json.dumps({report.at: report.record() for report in reports}, indent=2) + "\n")


def _read(at: str, config: ConfigDict, record: init_from.Weights) -> tuple[Any, dict[str, init_from.Change]]:
    """Return the arrays for `at`, fitted to this run's model, and what was changed to fit them."""
    # Networks in `frozen` have their own models: frozen/teacher has that of method.teacher.
    root, _, name = at.partition("/")
    model = name.split("/")[0] if root == "frozen" else "model"
    target, method = config, cast(Any, config.method)
    if root == "frozen":
        given = method.get(model)
        resizable = isinstance(given, ConfigDict) and given.get("call") == VIT
        target = ConfigDict({"method": {"model": given} if resizable else {}})
    modality = name.split("/")[0]
    if root == "params" and modality in (method.get("modalities") or {}):  # as are the encoders of modalities
        target = ConfigDict({"method": {"model": method.modalities[modality].model}})
        model = f"modalities.{modality}.model"
    _check_models(at, record, target, f"config.method.{model}")
    tree, resized = read_resized(record.path, target, select=record.select, ema=record.ema, channels=record.channels)
    changed = {path: init_from.Change("resized", how) for path, how in resized.items()}
    if record.then is not None:
        tree, more = _deeper(tree, record)
        changed |= more
    if record.old_labels is None or record.new_labels is None:
        return tree, changed
    old, new = (read_names(path, "init_from") for path in (record.old_labels, record.new_labels))
    rows = rows_by_name(old, new)
    prefix = "" if record.select.endswith("/head") else "head/"
    how = f"{len(set(rows))} of {len(old)} classes, by name"
    changed |= {prefix + leaf: init_from.Change("sliced", how) for leaf in ("kernel", "bias")}
    return _sliced(tree, record, rows, len(old)), changed


def _deeper(tree: Any, record: init_from.Weights) -> tuple[Any, dict[str, init_from.Change]]:
    """Return an encoder's arrays with the blocks of `record.then` after its own, and what was changed."""
    assert record.then is not None
    root, _, rest = record.then.partition("/")
    where = f"extra/ema/{rest}" if record.ema and root == "params" else record.then
    above = read_tree(record.path, select=where)
    if "blocks" not in tree or not isinstance(above, Mapping) or "blocks" not in above:
        raise ConfigError(
            f"init_from: blocks of then={record.then!r} follow those of select={record.select!r}: both need blocks"
        )
    own: dict[str, Any] = flatten_dict(tree["blocks"], sep="/")  # pyright: ignore[reportAssignmentType]
    others: dict[str, Any] = flatten_dict(above["blocks"], sep="/")  # pyright: ignore[reportAssignmentType]
    if own.keys() != others.keys() or any(own[path].shape[1:] != others[path].shape[1:] for path in own):
        raise ConfigError(f"init_from: the blocks of {record.select!r} and of {record.then!r} differ in shape")
    blocks = {path: np.concatenate([np.asarray(own[path]), np.asarray(others[path])]) for path in own}
    how = f"{len(next(iter(others.values())))} blocks of {record.then} after its own"
    changed = {f"blocks/{path}": init_from.Change("continued", how) for path in own}
    return {**tree, "blocks": unflatten_dict(blocks, sep="/")}, changed


def _check_models(at: str, record: init_from.Weights, target: Any, option: str) -> None:
    """Raise ConfigError if two models differ in dimensions, some of which (heads) no array shows."""
    text = saved_config(record.path)
    saved, _ = model_of(from_json(text).get("method") if text else None, record.select)
    chosen: Any = target.method.get("model")
    if not all(isinstance(one, ConfigDict) and one.get("call") in MODELS for one in (saved, chosen)):
        return
    one, other = (_dims(build(node, "model")) for node in (saved, chosen))
    if record.then is not None:  # which has further blocks
        one["depth"] = other["depth"]
    apart = [f"{name} {one[name]} and {other[name]}" for name in one if one[name] != other[name]]
    if apart:
        raise ConfigError(
            f"init_from.{at}: the models of {record.path} and of {option} differ in {', '.join(apart)}: "
            f"set the size of the weights with --{option}.size= (or single dimensions), or give other weights with "
            f"--config.init_from.{at}.path="
        )


def _dims(model: Any) -> dict[str, int]:
    """Return the dimensions that models must share to share an encoder's weights."""
    blocks = model.encoder.blocks
    return {"width": model.encoder.width} | {name: blocks[name] for name in ("depth", "heads", "hidden")}


def _sliced(tree: Any, record: init_from.Weights, rows: list[int], old: int) -> Any:
    head = tree if record.select.endswith("/head") else tree.get("head")
    if not head or "kernel" not in head:
        raise ConfigError(f"init_from: old_labels and new_labels are of a head, and {record.select!r} has none")
    if head["kernel"].shape[1] != old:
        raise ConfigError(
            f"init_from: the saved head has {head['kernel'].shape[1]} classes, {record.old_labels} has {old} names"
        )
    head = head | {"kernel": np.asarray(head["kernel"])[:, rows], "bias": np.asarray(head["bias"])[rows]}
    return head if record.select.endswith("/head") else tree | {"head": head}


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())
