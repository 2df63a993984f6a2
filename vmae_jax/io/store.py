"""The Orbax store that writes checkpoints, configured for a run."""

import uuid
from collections.abc import Callable
from typing import Any

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from vmae_jax.io.paths import in_bucket

__all__ = ["TRASH", "manager", "probe"]

TRASH = "trash"
_BLOCK = 4096  # the least that takes room on a disk


def manager(
    path: epath.Path,
    *,
    keep_last: int,
    keep_every: int | None,
    asynchronous: bool,
    barrier: Callable[..., None] | None,
) -> ocp.CheckpointManager:
    """Open the folder of a run's checkpoints for saving.

    Args:
      path: the folder.
      keep_last: number of newest steps to keep.
      keep_every: also keep the steps divisible by it; None keeps no others.
      asynchronous: write in the background.
      barrier: of the background threads of several processes; None for the store's own.
    """
    keep: list[Any] = [checkpoint_managers.LatestN(keep_last)]
    if keep_every is not None:
        keep.append(checkpoint_managers.EveryNSteps(keep_every))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
        # On a disk a rename is atomic, a deletion is not. A bucket has no rename: a step that
        # lost any of the files that are written last is not listed (`steps.WHOLE`).
        todelete_subdir=None if in_bucket(path) else TRASH,
        cleanup_tmp_directories=True,
        save_root_metadata=False,
        enable_async_checkpointing=asynchronous,
        async_options=ocp.AsyncOptions(barrier_sync_fn=barrier),
    )
    return ocp.CheckpointManager(path, options=options)


def probe(path: epath.Path) -> None:
    """Write a block beside the checkpoints and delete it.

    Raises:
      OSError: if this host cannot write.
    """
    file = (path if path.exists() else path.parent) / f".probe-{uuid.uuid4().hex}"
    try:
        file.write_bytes(bytes(_BLOCK))
    finally:
        file.unlink(missing_ok=True)
