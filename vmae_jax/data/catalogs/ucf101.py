"""UCF101, its three splits, from the owners' files.

    call("data.sources.catalog", catalog=call("data.catalogs.ucf101.read", directory="ucf101", split=1))

The directory holds `ucfTrainTestlist/` (`classInd.txt`, `trainlist01.txt`, `testlist01.txt`, …, of the
archive UCF101TrainTestSplits-RecognitionTask) and the videos, `UCF-101/{class}/v_*.avi`.
"""

import os

from vmae_jax.data.catalog import catalog
from vmae_jax.data.listing import Listing, Manual, Split

__all__ = ["read"]

LAYOUT = "ucfTrainTestlist/classInd.txt, trainlist01.txt, testlist01.txt, … and UCF-101/{class}/*.avi"


@catalog(split=(1, 2, 3))
def read(directory: str, split: int = 1) -> Listing:
    """Read one of the three splits of UCF101, into "train" and "test".

    Args:
      directory: the folder with the owners' files.
      split: 1, 2 or 3.
    """
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
    for part, rows in splits.items():
        source = os.path.join(os.path.dirname(path), f"{part}list{split:02d}.txt")
        for line in manual.lines(source):
            name = line.split()[0]  # training lists have the class's number behind it
            group = name.split("/")[0]
            if group.lower() not in label:
                raise manual.error(f"{source} has the class {group!r}, which classInd.txt has not")
            key = os.path.splitext(os.path.basename(name))[0]
            rows.add(key, videos.get(os.path.basename(name).lower()), labels={"label": label[group.lower()]})
    return Listing({"label": names}, splits)
