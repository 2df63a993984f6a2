"""Any folder of videos as a TFDS dataset.

    call("data.sources.tfds", name="video_folder", prepare=True,
         config=call("data.builders.video_folder.config", directory="videos", labels="folders"))

Where the directory holds `train/` (and `validation/` or `val/`, `test/`), those are the splits; otherwise all of
it is "train". With labels="folders" the first folder below names the class. `vmae data prepare` does the same
with more choices: re-encoding, cutting, several machines.
"""

import functools
import hashlib
import os
from typing import Any

from vmae_jax.data import listed_builder
from vmae_jax.data.listing import Listing, Manual, Split, class_numbers
from vmae_jax.names import as_text
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError

__all__ = ["builder", "builder_config", "config"]

SPLITS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


@register("dataset")
def config(directory: str, labels: str = "none") -> listed_builder.Settings:
    """A folder of videos.

    Args:
      directory: the folder.
      labels: "none", or "folders": the first folder (of a split) names the class.
    """
    if labels not in ("none", "folders"):
        raise ConfigError(f"video_folder: labels={labels!r}: it is 'none' or 'folders'")
    path = os.path.abspath(os.path.expanduser(directory))
    digest = hashlib.sha256(os.fsencode(f"{path} {labels}")).hexdigest()[:10]
    listing = functools.partial(_listing, path, labels)
    return listed_builder.Settings("video_folder", f"{_file_name(path) or 'root'}_{digest}", listing)


def builder_config(settings: Any) -> Any:
    """The TFDS BuilderConfig that stands for `settings`."""
    return listed_builder.config_of("video_folder", settings)


@functools.cache
def builder() -> type:
    """The TFDS builder class."""
    return listed_builder.builder_class("video_folder", description="A folder of videos.")


def _file_name(path: str) -> str:
    return as_text(os.path.basename(path)).replace("\\", "_")


def _listing(directory: str, labels: str) -> Listing:
    manual = Manual("video_folder", directory, layout="videos, in train/, validation/ and test/ or anyhow")
    roots = {split: root for split, names in SPLITS.items() if (root := manual.find(*names))}
    roots = roots if "train" in roots else {"train": manual.directory}
    keys = {split: [os.path.relpath(path, root) for path in manual.files(root)] for split, root in roots.items()}
    loose = next((key for found in keys.values() for key in found if os.sep not in key), None)
    if labels == "folders" and loose is not None:
        raise manual.error(f"labels='folders', but {loose} lies in no folder of a class")
    names = tuple(sorted({as_text(key.split(os.sep)[0]) for found in keys.values() for key in found}))
    number = class_numbers(names)
    splits = {split: Split() for split in roots}
    for split, root in roots.items():
        for key in keys[split]:
            more = {"label": number[as_text(key.split(os.sep)[0])]} if labels == "folders" else {}
            splits[split].add(as_text(key), os.path.join(root, key), labels=more)
    return Listing({"label": names} if labels == "folders" else {}, splits)
