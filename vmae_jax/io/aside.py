"""Moves steps that conflict with a save, or are damaged, to `aside/`; nothing is deleted."""

import contextlib
import logging
import os
from collections.abc import Collection

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from vmae_jax.io.paths import move, write_bytes
from vmae_jax.io.steps import WHOLE, numbers, strays, whole_steps

__all__ = ["move_aside"]

log = logging.getLogger(__name__)
_FOLDER = "aside"
_PROBE, _PROBE_BYTES = ".room", 1 << 16


def move_aside(path: epath.Path, step: int, damaged: Collection[int]) -> bool:
    """Move the steps of `path` at or after `step`, the `damaged` ones and the half-deleted ones.

    Every process takes part and learns whether there was any. Only process 0 looks: another one that
    looked later would find nothing left to move, and would not wait where process 0 does.

    With several processes, process 0 also writes a small file and removes it, so that all learn about a storage that
    refuses writes before any of them waits for it.

    Raises:
      Exception: if process 0 could not move a step or write.
    """
    failure: Exception | None = None
    moved = 0
    if jax.process_index() == 0:
        try:
            moved = _move(path, step, damaged)
            if jax.process_count() > 1:
                write_bytes(path / _PROBE, bytes(_PROBE_BYTES)).unlink()
        except Exception as error:
            failure, moved = error, -1
    if jax.process_count() > 1:
        moved = int(multihost_utils.broadcast_one_to_all(np.int32(moved)))
    if moved < 0:
        raise failure or RuntimeError("process 0 could not write to the folder of checkpoints")
    return moved > 0


def _move(path: epath.Path, step: int, damaged: Collection[int]) -> int:
    whole = set(whole_steps(path)) - set(damaged)
    doomed = [str(number) for number in numbers(path) if number >= step or number not in whole]
    doomed += strays(path)  # the store would keep them in place of the newest steps
    if not doomed:
        return 0
    folder = _made(path)
    for name in doomed:
        turn = sum(1 for other in folder.iterdir() if other.name.startswith(f"{name}-"))
        move(path / name, folder / f"{name}-{turn}", first=WHOLE)
        log.warning("checkpoint %s of %s was moved to %s", name, path, folder / f"{name}-{turn}")
    return len(doomed)


def _made(path: epath.Path) -> epath.Path:
    """Return the folder for what is moved: `aside`, or `aside-1`, … where that is a file or a link."""
    number = 0
    while True:
        folder = path / (f"{_FOLDER}-{number}" if number else _FOLDER)
        if not os.path.islink(folder):  # it may lead out of the workdir
            with contextlib.suppress(FileExistsError):
                folder.mkdir(parents=True, exist_ok=True)
                return folder
        number += 1
