"""HMDB51, its three splits, from the owners' files.

    call("data.sources.catalog", catalog=call("data.catalogs.hmdb51.read", directory="hmdb51", split=1))

The directory holds `testTrainMulti_7030_splits/{class}_test_split{1,2,3}.txt` (of the archive
test_train_splits) and the videos, `{class}/*.avi` below `hmdb51_org/` or `videos/`.
"""

import os
import re

from vmae_jax.data.catalog import catalog
from vmae_jax.data.listing import Listing, Manual, Split

__all__ = ["read"]

LAYOUT = "testTrainMulti_7030_splits/{class}_test_split1.txt, … and hmdb51_org/{class}/*.avi"
PARTS = {"0": None, "1": "train", "2": "test"}  # the parts by their number in the lists; 0 is in neither


@catalog(split=(1, 2, 3))
def read(directory: str, split: int = 1) -> Listing:
    """Read one of the three splits of HMDB51, into "train" and "test".

    Args:
      directory: the folder with the owners' files.
      split: 1, 2 or 3.
    """
    manual = Manual("hmdb51", directory, layout=LAYOUT)
    folder = manual.need("testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits")
    lists = sorted(name for name in os.listdir(folder) if re.fullmatch(rf".+_test_split{split}\.txt", name))
    if not lists:
        raise manual.error(f"there is no list of split {split} in {folder}")
    names = tuple(name.removesuffix(f"_test_split{split}.txt") for name in lists)
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
