"""A folder that `vmae data prepare` (or TFDS) filled, opened where a folder of videos is asked for."""

import os
from typing import Any

from etils import epath

from vmae_jax.data.records import from_directory, open_tfds
from vmae_jax.data.source import Stored
from vmae_jax.spec import ConfigError

__all__ = ["is_prepared", "open_prepared"]

_HELD_OUT = ("validation", "val", "test")


def is_prepared(path: str) -> bool:
    """True for a folder with a dataset's metadata."""
    return (epath.Path(os.path.expanduser(path)) / "dataset_info.json").exists()


def open_prepared(path: str, *, part: str = "all", share: float = 0.1, names: str | None = None) -> Any:
    """The records of a prepared folder; see `sources.folder`.

    Where there is a split "validation" (or "test"), it is what is held out; else the first `share`
    of the records is, which lie in no order that means anything.

    Raises:
      ConfigError: names of classes, which the records have themselves.
    """
    if names is not None:
        raise ConfigError(f"data source: {path!r} is prepared and has its classes' names itself; leave names= out")
    splits = from_directory(path).info.splits
    training = "train" if "train" in splits else next(iter(splits))
    held_out = next((split for split in _HELD_OUT if split in splits and split != training), None)
    chosen = training
    if part == "held_out" and held_out:
        chosen = held_out
    elif part != "all" and not held_out:
        count = splits[training].num_examples
        if count < 2:
            raise ConfigError(f"data source: one record cannot be split into training and held-out ones, in {path!r}")
        cut = max(1, round(share * count))
        chosen = f"{training}[:{cut}]" if part == "held_out" else f"{training}[{cut}:]"
    return open_tfds(Stored(None, path, chosen, None, None, False, ("video", "label", "key")))
