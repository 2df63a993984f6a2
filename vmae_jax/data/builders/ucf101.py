"""UCF101, its three splits, from the owners' files.

    call("data.sources.tfds", name="ucf101", prepare=True,
         config=call("data.builders.ucf101.config", split=1, directory="ucf101"))

The directory holds `ucfTrainTestlist/` (`classInd.txt`, `trainlist01.txt`, `testlist01.txt`, …, of the
archive UCF101TrainTestSplits-RecognitionTask) and the videos, `UCF-101/{class}/v_*.avi`.
"""

import functools
import os
from typing import Any

from vmae_jax.data import listed_builder
from vmae_jax.data.listing import Listing, Manual, Split
from vmae_jax.registry import register

__all__ = ["builder", "builder_config", "config"]

LAYOUT = "ucfTrainTestlist/classInd.txt, trainlist01.txt, testlist01.txt, … and UCF-101/{class}/*.avi"


@register("dataset")
def config(split: int = 1, directory: str | None = None) -> listed_builder.Settings:
    """One of the three splits, into "train" and "test".

    Args:
      split: 1, 2 or 3.
      directory: the folder with the owners' files; not needed once it is prepared.
    """
    return listed_builder.numbered("ucf101", split, _listing, directory)


def builder_config(settings: Any) -> Any:
    """The TFDS BuilderConfig that stands for `settings`."""
    return listed_builder.config_of("ucf101", settings)


@functools.cache
def builder() -> type:
    """The TFDS builder class."""
    return listed_builder.builder_class("ucf101", description="101 human actions, one of three splits.")


def _listing(directory: str | None, number: int) -> Listing:
    manual = Manual("ucf101", directory, layout=LAYOUT)
    folder = os.path.basename(manual.need("ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask"))
    path = manual.need(f"{folder}/classInd.txt", f"{folder}/ucfTrainTestlist/classInd.txt")
    numbered = [line.split(maxsplit=1) for line in manual.lines(path)]  # counted from 1
    if [line[0] for line in numbered] != [str(i) for i in range(1, len(numbered) + 1)]:
        raise manual.error(f"{path} is not '1 NAME', '2 NAME', …")
    names = tuple(line[1] for line in numbered)
    # Some copies of the videos and lists differ in capitals (HandstandPushups, HandStandPushups).
    label = {name.lower(): i for i, name in enumerate(names)}
    videos = {os.path.basename(found).lower(): found for found in manual.videos("UCF-101", "videos").paths()}
    splits = {"train": Split(), "test": Split()}
    for split, rows in splits.items():
        source = os.path.join(os.path.dirname(path), f"{split}list{number:02d}.txt")
        for line in manual.lines(source):
            name = line.split()[0]  # training lists have the class's number behind it
            group = name.split("/")[0]
            if group.lower() not in label:
                raise manual.error(f"{source} has the class {group!r}, which classInd.txt has not")
            key = os.path.splitext(os.path.basename(name))[0]
            rows.add(key, videos.get(os.path.basename(name).lower()), labels={"label": label[group.lower()]})
    return Listing({"label": names}, splits)
