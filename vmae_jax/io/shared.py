"""The frozen networks of a run, which never change, stored once for all checkpoints.

`checkpoints/shared/DIGEST` holds the arrays below "frozen". The digest is that of their names, shapes,
dtypes and fingerprints, which the table of leaves of every step contains, so each step refers to them by content.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from vmae_jax.io import layout

__all__ = ["ROOT", "holder", "is_whole", "write"]

ROOT = "frozen"
_FOLDER = "shared"
_WHOLE = ("_METADATA", "manifest.ocdbt")


def holder(step: epath.Path, table: Mapping[str, layout.Leaf]) -> tuple[epath.Path, list[str]]:
    """Return the folder of the frozen leaves of a step, and these leaves.

    Args:
      step: the folder of the step.
      table: its leaves; those without elements are not stored.
    """
    names = [name for name, leaf in table.items() if layout.under(name, ROOT) is not None and not leaf.empty]
    rows = [[name, *map(str, table[name][:2]), table[name].fingerprint] for name in sorted(names)]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
    return step.parent / _FOLDER / digest, names


def is_whole(folder: epath.Path) -> bool:
    """Whether the folder is complete."""
    return all((folder / name).exists() for name in _WHOLE)


def write(folder: epath.Path, leaves: Mapping[str, Any], barrier: Callable[..., None] | None = None) -> None:
    """Write the leaves unless they exist; every process takes part, and waits for the end.

    Args:
      folder: from `holder`.
      leaves: name -> array.
      barrier: where the processes meet (`agreement.Agreement.barrier`); None for the store's own.
    """
    there = is_whole(folder)
    if jax.process_count() > 1:  # all must agree, even if they see different files
        there = bool(multihost_utils.broadcast_one_to_all(np.int32(there)))
    if there or not leaves:
        return
    with ocp.StandardCheckpointer(async_options=ocp.AsyncOptions(barrier_sync_fn=barrier)) as writer:
        writer.save(folder, layout.nest(leaves), force=True)
        writer.wait_until_finished()
