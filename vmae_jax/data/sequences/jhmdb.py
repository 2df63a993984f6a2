"""JHMDB, fifteen joints of a person, from the owners' files.

    call("data.sequences.jhmdb", directory="jhmdb")

The directory holds `splits/CLASS_test_split1.txt`, …, `Rename_Images/CLASS/VIDEO/*.png` and
`joint_positions/CLASS/VIDEO/joint_positions.mat`.
"""

import dataclasses
import os
import re

import numpy as np

from vmae_jax.data.listing import Manual
from vmae_jax.data.sequences.core import Annotated, Opened, of_pictures
from vmae_jax.data.sequences.folders import numbered
from vmae_jax.registry import register

__all__ = ["Jhmdb", "jhmdb"]

LAYOUT = (
    "splits/CLASS_test_split1.txt, …, Rename_Images/CLASS/VIDEO/*.png and "
    "joint_positions/CLASS/VIDEO/joint_positions.mat"
)
_TEST = "2"  # the part of a video in the lists


@register("sequences")
def jhmdb(directory: str, split: int = 1) -> "Jhmdb":
    """The test videos of one of the three splits of JHMDB.

    Args:
      directory: the folder with the owners' files.
      split: 1, 2 or 3.
    """
    if split not in (1, 2, 3):
        raise ValueError(f"split={split}: 1, 2 or 3")
    return Jhmdb(directory, split)


@dataclasses.dataclass(frozen=True)
class Jhmdb:
    """See `jhmdb`."""

    directory: str
    split: int

    def open(self) -> Opened:
        """Read the lists, and find all files."""
        manual = Manual("jhmdb", self.directory, layout=LAYOUT)
        folder = manual.need("splits")
        lists = sorted(name for name in os.listdir(folder) if re.fullmatch(rf".+_test_split{self.split}\.txt", name))
        found = []
        for name in lists:
            group = name.removesuffix(f"_test_split{self.split}.txt")
            for line in manual.lines(os.path.join(folder, name)):
                file, _, part = line.rpartition(" ")
                if part not in ("1", _TEST):
                    raise manual.error(f"splits/{name} has {line!r}, where a name and 1 or 2 are expected")
                if part == _TEST:
                    key = f"{group}/{os.path.splitext(file.strip())[0]}"
                    frames = numbered(manual, f"Rename_Images/{key}", (".png", ".jpg"))
                    found.append((key, frames, manual.need(f"joint_positions/{key}/joint_positions.mat")))
        if not found:
            raise manual.error(f"the lists of split {self.split} in splits name no test video")

        def video(number: int) -> Annotated:
            key, frames, file = found[number]
            points = _points(manual, file)
            length = min(len(frames), len(points))
            return of_pictures(key, frames[:length], points=points[:length])

        return Opened("joints", [key for key, _, _ in found], video)


def _points(manual: Manual, path: str) -> np.ndarray:
    """Return the joints of a MAT file, [frames joints 2]; pixels are counted from 1 there."""
    from scipy.io import loadmat

    try:
        places = loadmat(path, variable_names=["pos_img"])["pos_img"]
    except Exception as error:  # scipy raises errors of many kinds for malformed files
        raise manual.error(f"{path} cannot be read as a MAT file with pos_img ({error})") from error
    if places.ndim != 3 or places.shape[0] != 2 or not np.isfinite(places).all():
        raise manual.error(f"{path} has a pos_img of {list(places.shape)}, where 2 x joints x frames are expected")
    return np.asarray(places, np.float64).transpose(2, 1, 0) - 1
