"""Reading of checkpoints: the complete steps, one step onto a mesh, or a part as numpy arrays.

Nothing here writes, so any number of readers can read from a run that is still training.
"""

import logging
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from vmae_jax.io import fingerprint, layout, shared
from vmae_jax.io.failures import in_one_line
from vmae_jax.io.folders import check_folder
from vmae_jax.io.paths import absolute
from vmae_jax.io.steps import META, STATE, number_of, whole_steps
from vmae_jax.spec import ConfigError

__all__ = [
    "DamagedCheckpointError",
    "common",
    "locate",
    "read_meta",
    "read_tree",
    "restore_step",
]

log = logging.getLogger(__name__)
T = TypeVar("T")
_TRIED = 64  # newest steps to try, one after the other


class DamagedCheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or whose bits are not the saved ones."""


def read_tree(path: epath.PathLike, *, select: str = "params", step: int | None = None) -> Any:
    """Return a part of a checkpoint as numpy arrays, verified, on any machine.

    Args:
      path: a workdir, its `checkpoints`, or one step of it.
      select: the part, such as "params", "params/encoder", "extra/ema"; "" is everything.
      step: the step, if `path` names none; None for the newest that is not damaged.

    Returns:
      a nested dict (relative to `select`) of arrays, or one array if `select` is a leaf;
      typed keys are returned as their uint32 data.

    Raises:
      ConfigError: if there is no checkpoint, or nothing of that name in it.
      DamagedCheckpointError: if the step, or every step, is damaged.
    """
    return read_newest(path, select=select, step=step)[1]


def read_newest(path: epath.PathLike, *, select: str = "params", step: int | None = None) -> tuple[int, Any]:
    """Return the step and `read_tree` of it; arguments and errors as there."""
    folder, named = locate(path)
    step = named if named is not None else step
    reasons = []
    for candidate in [step] if step is not None else sorted(whole_steps(folder), reverse=True):
        try:
            return candidate, _read(folder / str(candidate), candidate, select.strip("/"))
        except DamagedCheckpointError as error:
            reasons.append(f"step {candidate}: {error}")
            log.warning("checkpoint %d of %s is damaged: %s", candidate, folder, error)
    raise DamagedCheckpointError(f"no readable checkpoint in {folder}: {'; '.join(reasons)}")


def read_meta(path: epath.PathLike, *, step: int | None = None) -> dict[str, Any]:
    """Return the `meta` passed to `save`, of a workdir's newest step or of the named one."""
    folder, named = locate(path)
    step = named if named is not None else step if step is not None else max(whole_steps(folder))
    return _read_document(folder / str(step), step)[0]


def locate(path: epath.PathLike) -> tuple[epath.Path, int | None]:
    """Return the folder of checkpoints of `path`, and the step if it names one.

    Raises:
      ConfigError: if there is no such folder, or it is neither a workdir nor checkpoints nor a step, or has none.
    """
    path = absolute(path)
    check_folder(path, "checkpoint")
    if number_of(path.name) is not None and (path / META).exists():
        if int(path.name) not in whole_steps(path.parent):
            raise ConfigError(f"{path} is not a complete checkpoint")
        return path.parent, int(path.name)
    for folder in (path / "checkpoints", path):
        if whole_steps(folder):
            return folder, None
    raise ConfigError(f"{path} has no checkpoint: name a workdir, or WORKDIR/checkpoints/STEP")


def restore_step(path: epath.Path, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
    """Return the state and meta of one step, on the shardings of `abstract_state`, verified.

    Raises:
      ConfigError: if leaves, shapes or dtypes differ.
      DamagedCheckpointError: if it cannot be read, or was changed.
    """
    wanted = layout.flat(abstract_state)
    meta, table, read = together(lambda: _read_onto(path, step, wanted))
    _verify(table, list(wanted), fingerprint.examine([read[name] for name in wanted]).fingerprints)
    structure = jax.tree_util.tree_structure(abstract_state)
    return jax.tree_util.tree_unflatten(structure, [read[name] for name in wanted]), meta


def together(read: Callable[[], T]) -> T:
    """Return `read()` on every process; damage on one of them counts for all.

    Each reads its own part of the arrays. If only one skipped a damaged step, the others would
    wait for it forever in the next computation.

    Raises:
      DamagedCheckpointError: if the step is damaged here or on another process.
    """
    found: Any = None
    damage: DamagedCheckpointError | None = None
    try:
        found = read()
    except DamagedCheckpointError as error:
        damage = error
    if jax.process_count() > 1:
        good = np.asarray(multihost_utils.process_allgather(np.int32(damage is None)))
        if damage is None and not good.all():
            damage = DamagedCheckpointError(f"process {int(good.argmin())} could not read it")
    if damage is not None:
        raise damage
    return found


def common(steps: list[int]) -> list[int]:
    """Return the steps as process 0 lists them, because all must try the same ones."""
    if jax.process_count() == 1:
        return steps
    newest = np.full(_TRIED, -1, np.int32)
    newest[: min(len(steps), _TRIED)] = steps[-_TRIED:]
    return [int(step) for step in np.asarray(multihost_utils.broadcast_one_to_all(newest)) if step >= 0]


def _read_onto(
    path: epath.Path, step: int, wanted: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, layout.Leaf], dict[str, Any]]:
    """Return the metadata, the table of leaves, and the leaves on the shardings of `wanted`."""
    meta, table = _read_document(path, step)
    layout.compare(table, layout.describe(wanted), f"checkpoint {path}")
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = {name: _target(leaf, here) for name, leaf in wanted.items() if not table[name].empty}
    read: dict[str, Any] = {}
    for folder, names in _places(path, table, list(target)).items():
        part = layout.nest({name: target[name] for name in names})
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as reader:
            read |= _attempt(lambda folder=folder, part=part: layout.flat(reader.restore(folder, part)))
    if read.keys() != target.keys():
        raise DamagedCheckpointError("the store returned other leaves than requested")
    for name, leaf in wanted.items():
        if table[name].empty:
            read[name] = jax.device_put(np.zeros(leaf.shape, leaf.dtype), _target(leaf, here).sharding)
    return meta, table, read


def _alone() -> ocp.options.MultiprocessingOptions:
    """Return a reader that waits for no other process, so that damage on one does not block the others."""
    rank = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=rank, active_processes={rank}, barrier_sync_key_prefix=f"read{rank}"
    )


def _read(path: epath.Path, step: int, select: str) -> Any:
    _, table = _read_document(path, step)
    chosen = {name: leaf for name, leaf in table.items() if layout.under(name, select) is not None}
    if not chosen:
        known = sorted({"/".join(name.split("/")[: select.count("/") + 1]) for name in table})
        raise ConfigError(f"{path} has no {select!r}; it has {', '.join(known[:20])}")
    stored = {name: leaf for name, leaf in chosen.items() if not leaf.empty}
    _check_memory(path, sum(leaf.bytes for leaf in stored.values()))
    read: dict[str, Any] = {}
    for folder, names in _places(path, table, list(stored)).items():
        read |= _read_arrays(folder, {name: stored[name] for name in names})
    read |= {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in chosen.items() if leaf.empty}
    _verify(table, list(chosen), [fingerprint.of_numpy(np.asarray(read[name])) for name in chosen])
    if select in chosen:
        return np.asarray(read[select])
    return layout.nest({str(layout.under(name, select)): np.asarray(read[name]) for name in chosen})


def _check_memory(path: epath.Path, size: int) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise ConfigError(
            f"{path} declares {size / 2**30:.1f} GiB of arrays, and this machine has {memory / 2**30:.1f} GiB of memory"
        )


def _read_arrays(folder: epath.Path, leaves: Mapping[str, layout.Leaf]) -> dict[str, Any]:
    names = list(leaves)
    arguments = ocp.args.PyTreeRestore(
        item=layout.nest(dict.fromkeys(names, 0)),
        restore_args=layout.nest({name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}),
        partial_restore=True,
    )
    alone = _alone()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        # The store allocates the sizes that its own files declare, even if the signed table differs.
        _attempt(lambda: _check_shapes(handler.metadata(folder), leaves))
        return _attempt(lambda: layout.flat(reader.restore(folder, args=arguments)))


def _check_shapes(metadata: Any, leaves: Mapping[str, layout.Leaf]) -> None:
    """Raise ValueError if the store's files declare other shapes than the table of leaves."""
    for name, leaf in leaves.items():
        found: Any = getattr(metadata, "tree", metadata)
        for part in name.split("/"):
            found = found[part]
        shape = tuple(found.shape)
        if (shape[: len(leaf.shape)] if leaf.typed else shape) != leaf.shape or math.prod(shape) > _most(leaf):
            raise ValueError(f"{name} is stored with the shape {list(shape)[:8]}, but was saved as {leaf}")


def _most(leaf: layout.Leaf) -> int:
    """Return the number of elements of a leaf in the store, where a typed key is several words."""
    return math.prod(leaf.shape) * (16 if leaf.typed else 1)


def _places(path: epath.Path, table: Mapping[str, layout.Leaf], names: list[str]) -> dict[epath.Path, list[str]]:
    """Return the folder of each leaf: that of the step, or that of the frozen networks."""
    frozen, still = shared.holder(path, table)
    if not shared.is_whole(frozen):  # the step holds all leaves itself
        if set(still) & set(names) and f"'{shared.ROOT}'" not in (path / STATE / "_METADATA").read_text():
            raise DamagedCheckpointError(f"{frozen}, with the frozen networks, is missing")
        return {path / STATE: names} if names else {}
    parts = {path / STATE: [n for n in names if n not in still], frozen: [n for n in names if n in still]}
    return {folder: part for folder, part in parts.items() if part}


def _read_document(path: epath.Path, step: int) -> tuple[dict[str, Any], dict[str, layout.Leaf]]:
    alone = _alone()
    handler = ocp.JsonCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        return _attempt(lambda: layout.parse(reader.restore(path / META), step))


def _verify(table: Mapping[str, layout.Leaf], names: list[str], fingerprints: list[str]) -> None:
    wrong = [name for name, found in zip(names, fingerprints, strict=True) if table[name].fingerprint != found]
    if wrong:
        raise DamagedCheckpointError(
            f"{len(wrong)} of {len(names)} leaves differ from the saved ones, first {wrong[0]}"
        )


def _attempt(read: Callable[[], T]) -> T:
    """Return `read()`; turn errors of the store about a broken file into DamagedCheckpointError.

    Lack of memory, and leaves that do not fit the config, are not damage.
    """
    in_one_line()
    try:
        return read()
    except (ConfigError, MemoryError):
        raise
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        log.debug("reading a checkpoint failed", exc_info=True)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    raise DamagedCheckpointError(reason)


def _target(leaf: Any, here: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here)
