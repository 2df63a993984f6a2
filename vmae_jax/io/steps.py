"""The steps in a folder of checkpoints, and which of them are complete."""

import logging
import re
from collections.abc import Callable

import orbax.checkpoint as ocp
from etils import epath

__all__ = ["META", "STATE", "WHOLE", "number_of", "numbers", "strays", "whole_steps"]

log = logging.getLogger(__name__)
STATE, META = "state", "meta"
# Written last and removed in any order: a step that lacks one is half-deleted.
WHOLE = (f"{META}/metadata", f"{STATE}/_METADATA", f"{STATE}/manifest.ocdbt")
_STEP = re.compile("0|[1-9][0-9]{0,17}")


def numbers(folder: epath.Path) -> list[int]:
    """Return all folders with the name of a step, complete or not, ascending; `007` and `²` are no steps."""
    if not folder.exists():
        return []
    try:
        names = [entry.name for entry in folder.iterdir()]
    except NotADirectoryError:  # a file is there
        return []
    return sorted(number for name in names if (number := number_of(name)) is not None)


def strays(folder: epath.Path) -> list[str]:
    """Return names that only the store takes for steps: other digits, numbers beyond any training."""
    if not folder.is_dir():
        return []
    names = [entry.name for entry in folder.iterdir()]
    return sorted(name for name in names if re.fullmatch(r"[1-9]\d*", name) and number_of(name) is None)


def whole_steps(folder: epath.Path) -> list[int]:
    """Return the steps that are committed and not half-deleted, ascending."""
    return [number for number in numbers(folder) if _examined(lambda step=folder / str(number): _whole(step))]


def _whole(step: epath.Path) -> bool:
    return ocp.utils.is_checkpoint_finalized(step) and all((step / name).exists() for name in WHOLE)


def number_of(name: str) -> int | None:
    """Return the step of a folder's name, as written by `str` with the digits 0 to 9, or None."""
    return int(name) if _STEP.fullmatch(name) else None


def _examined(look: Callable[[], bool]) -> bool:
    """Return `look()`, or False if the storage does not permit it, regardless of other steps."""
    try:
        return look()
    except (PermissionError, NotADirectoryError) as error:
        log.warning("a step is skipped: %s", error)
        return False
