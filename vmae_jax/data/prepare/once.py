"""Records of a source that a config names: made when they are first opened, in this user's cache folder."""

import logging
import os
from typing import Any

from vmae_jax.data.prepare.inputs import listed
from vmae_jax.data.prepare.local import local_runner
from vmae_jax.data.prepare.options import options
from vmae_jax.data.prepare.run import Plan, prepare
from vmae_jax.data.prepare.shards import layout

__all__ = ["cache_folder", "prepare_once"]

log = logging.getLogger(__name__)


def cache_folder() -> str:
    """Return where records are kept when a config names no place."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "vmae_jax", "datasets")


def prepare_once(source: Any, folder: str, *, name: str, split: str) -> None:
    """Prepare a split as `vmae data prepare` does, unless it is there.

    An interrupted preparation is resumed. Of several processes one prepares, and the others wait for it.

    Args:
      source: the videos, with names, sizes and labels that are known without reading them.
      folder: of the dataset, local or gs://.
      name: of the dataset.
      split: its name.

    Raises:
      MachineFault: if the folder cannot be written.
      TooManyBadVideos: if not one video can be read.
    """
    chosen = options()
    place = layout(folder, name=name, split=split, file_format=chosen.file_format)
    if place.manifest.exists():
        return
    log.info("preparing %s, split %s, in %s (once)", name, split, place.out)
    inputs = listed(source)
    prepare(lambda: Plan(inputs, place, chosen), place, local_runner(progress=False), wait=True)
