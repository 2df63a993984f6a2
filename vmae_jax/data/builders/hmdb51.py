"""HMDB51, its three splits, from the owners' files.

    call("data.sources.tfds", name="hmdb51", prepare=True,
         config=call("data.builders.hmdb51.config", split=1, directory="hmdb51"))

The directory holds `testTrainMulti_7030_splits/{class}_test_split{1,2,3}.txt` (of the archive
test_train_splits) and the videos, `{class}/*.avi` below `hmdb51_org/` or `videos/`.
"""

import functools
import os
import re
from typing import Any

from vmae_jax.data import listed_builder
from vmae_jax.data.listing import Listing, Manual, Split
from vmae_jax.registry import register

__all__ = ["builder", "builder_config", "config"]

LAYOUT = "testTrainMulti_7030_splits/{class}_test_split1.txt, … and hmdb51_org/{class}/*.avi"
PARTS = {"0": None, "1": "train", "2": "test"}  # what the lists say of a video; 0 is in neither


@register("dataset")
def config(split: int = 1, directory: str | None = None) -> listed_builder.Settings:
    """One of the three splits, into "train" and "test".

    Args:
      split: 1, 2 or 3.
      directory: the folder with the owners' files; not needed once it is prepared.
    """
    return listed_builder.numbered("hmdb51", split, _listing, directory)


def builder_config(settings: Any) -> Any:
    """The TFDS BuilderConfig that stands for `settings`."""
    return listed_builder.config_of("hmdb51", settings)


@functools.cache
def builder() -> type:
    """The TFDS builder class."""
    return listed_builder.builder_class("hmdb51", description="51 human motions, one of three splits.")


def _listing(directory: str | None, number: int) -> Listing:
    manual = Manual("hmdb51", directory, layout=LAYOUT)
    folder = manual.need("testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits")
    lists = sorted(name for name in os.listdir(folder) if re.fullmatch(rf".+_test_split{number}\.txt", name))
    if not lists:
        raise manual.error(f"there is no list of split {number} in {folder}")
    names = tuple(name.removesuffix(f"_test_split{number}.txt") for name in lists)
    videos = manual.videos("hmdb51_org", "videos")
    splits = {"train": Split(), "test": Split()}
    for label, file in enumerate(lists):
        path = os.path.join(folder, file)
        for line in manual.lines(path):
            name, _, part = line.rpartition(" ")
            if part not in PARTS:
                raise manual.error(f"{path} has {line!r}, where a name and 0, 1 or 2 are wanted")
            key = os.path.splitext(name.strip())[0]
            chosen = PARTS[part]
            if chosen is not None:
                splits[chosen].add(key, videos.find(key), labels={"label": label})
    return Listing({"label": names}, splits)
