"""Videos that a list names, such as the papers' self-collected ones, as a TFDS dataset.

    call("data.sources.tfds", name="video_list", prepare=True,
         config=call("data.builders.video_list.config", train="instagram.csv", root="videos"))

A list has the official formats, one video a line: `path`, `path 0 -1`, `path label`, … (see
`data.sources.csv`). What it names and is not there is left out and told.
"""

import functools
import hashlib
import os
from typing import Any

from vmae_jax.data import listed_builder
from vmae_jax.data.listing import Listing, Split
from vmae_jax.data.video import Encoded
from vmae_jax.names import as_text
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError

__all__ = ["builder", "builder_config", "config"]


@register("dataset")
def config(
    train: str, validation: str | None = None, test: str | None = None, root: str = "", columns: str | None = None
) -> listed_builder.Settings:
    """Videos named by lists, one list a split.

    Args:
      train: the list of that split.
      validation: likewise, where there is one.
      test: likewise.
      root: what relative paths are relative to; by default the folder of each list.
      columns: as in `data.sources.csv`.
    """
    if not train:
        raise ConfigError("video_list: train names the list of the videos to train on, got ''")
    lists = {"train": train, "validation": validation, "test": test}
    given = {split: os.path.abspath(os.path.expanduser(path)) for split, path in lists.items() if path}
    digest = hashlib.sha256(repr((given, root, columns)).encode()).hexdigest()[:10]
    name = as_text(os.path.splitext(os.path.basename(given["train"]))[0]).replace("\\", "_")
    return listed_builder.Settings("video_list", f"{name}_{digest}", functools.partial(_listing, given, root, columns))


def builder_config(settings: Any) -> Any:
    """The TFDS BuilderConfig that stands for `settings`."""
    return listed_builder.config_of("video_list", settings)


@functools.cache
def builder() -> type:
    """The TFDS builder class."""
    return listed_builder.builder_class("video_list", description="Videos that a list names.")


def _listing(lists: dict[str, str], root: str, columns: str | None) -> Listing:
    from vmae_jax.data.sources import csv

    sources = {split: csv(path, root=root, columns=columns).open() for split, path in lists.items()}
    splits = {split: Split() for split in lists}
    found: dict[str, set[int]] = {}
    pictures = False
    for split, source in sources.items():
        for index in range(len(source)):
            encoded = source.fetch(index)
            labels = {name: value for name, value in encoded.labels.items() if value is not None}
            for name, value in labels.items():
                found.setdefault(name, set()).update(_classes(lists[split], name, value))
            video = _local(encoded)
            pictures = pictures or isinstance(video, tuple)
            there = os.path.exists(video if isinstance(video, str) else video[0])
            splits[split].add(encoded.key, video if there else None, labels=labels)
    return Listing(_names(sources, found, lists), splits, pictures=pictures)


def _local(encoded: Encoded) -> str | tuple[str, ...]:
    """Where a video, or its pictures, lie on this machine."""
    frames = tuple(frame for frame in encoded.frames or () if isinstance(frame, str))
    found = frames or encoded.path
    if found is None:
        raise ConfigError(f"video_list: {encoded.key} is not on a local disk; vmae data prepare reads it")
    return found


def _classes(path: str, name: str, value: Any) -> tuple[int, ...]:
    """The class numbers of a label."""
    numbers = value if isinstance(value, tuple) else (value,)
    if isinstance(value, tuple) != (name == "labels") or not all(isinstance(one, int) for one in numbers):
        raise ConfigError(
            f"video_list: {path}: {name}={value!r}: one class, or several under the column 'labels', are stored here; "
            f"vmae data prepare stores others"
        )
    return numbers


def _names(sources: dict[str, Any], found: dict[str, set[int]], lists: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """The names of each label's classes: the lists' own, or their numbers."""
    names: dict[str, tuple[str, ...]] = {}
    for label, numbers in found.items():
        given = {source.label_names.get(label, ()) for source in sources.values()} - {()}
        if len(given) > 1:
            raise ConfigError(f"video_list: {' and '.join(lists.values())} name different classes; number them instead")
        names[label] = given.pop() if given else tuple(str(i) for i in range(max(numbers, default=0) + 1))
    return names
