"""Which steps a folder of checkpoints holds, and which of them are whole."""

import logging
import re
from collections.abc import Callable

import orbax.checkpoint as ocp
from etils import epath

__all__ = ["META", "STATE", "WHOLE", "number_of", "numbers", "strays", "whole_steps"]

log = logging.getLogger(__name__)
STATE, META = "state", "meta"
# What the store writes last and removes at any time: a step that lacks one is half deleted.
WHOLE = (f"{META}/metadata", f"{STATE}/_METADATA", f"{STATE}/manifest.ocdbt")
_STEP = re.compile("0|[1-9][0-9]{0,17}")


def numbers(folder: epath.Path) -> list[int]:
    """Everything named as a step is, whole or not, ascending; what is named otherwise (`007`, `²`) is no step."""
    if not folder.exists():
        return []
    try:
        names = [entry.name for entry in folder.iterdir()]
    except NotADirectoryError:  # a file is there
        return []
    return sorted(number for name in names if (number := number_of(name)) is not None)


def strays(folder: epath.Path) -> list[str]:
    """Names that the store takes for steps and this project does not: other digits, numbers past any training."""
    if not folder.is_dir():
        return []
    names = [entry.name for entry in folder.iterdir()]
    return sorted(name for name in names if re.fullmatch(r"[1-9]\d*", name) and number_of(name) is None)


def whole_steps(folder: epath.Path) -> list[int]:
    """The numbered folders that were committed and are not half deleted, ascending."""
    return [number for number in numbers(folder) if _examined(lambda step=folder / str(number): _whole(step))]


def _whole(step: epath.Path) -> bool:
    return ocp.utils.is_checkpoint_finalized(step) and all((step / name).exists() for name in WHOLE)


def number_of(name: str) -> int | None:
    """The step that a folder's name stands for: as `str` writes it, in the digits 0 to 9."""
    return int(name) if _STEP.fullmatch(name) else None


def _examined(look: Callable[[], bool]) -> bool:
    """`look()`; False where the storage does not permit it, which is no evidence against other steps."""
    try:
        return look()
    except (PermissionError, NotADirectoryError) as error:
        log.warning("a step is passed over: %s", error)
        return False
