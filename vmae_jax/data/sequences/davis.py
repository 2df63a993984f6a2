"""DAVIS 2017, objects through a video, from the owners' files.

    call("data.sequences.davis", directory="DAVIS")

The directory is the owners' `DAVIS` of DAVIS-2017-trainval-480p.zip: `JPEGImages/480p/VIDEO/*.jpg`,
`Annotations/480p/VIDEO/*.png` and `ImageSets/2017/val.txt`.
"""

import dataclasses

from vmae_jax.data.listing import Manual
from vmae_jax.data.sequences.core import Annotated, Opened, label_map, of_pictures
from vmae_jax.data.sequences.folders import numbered, paired
from vmae_jax.registry import register

__all__ = ["Davis", "davis"]

LAYOUT = "JPEGImages/480p/VIDEO/*.jpg, Annotations/480p/VIDEO/*.png and ImageSets/2017/val.txt"
_VOID = 255  # of the annotations: counted as background


@register("sequences")
def davis(directory: str, split: str = "val") -> "Davis":
    """DAVIS 2017 at 480p.

    Args:
      directory: the folder with the owners' files.
      split: the list of videos in `ImageSets/2017`, "val" (30 videos) or "train".
    """
    return Davis(directory, split)


@dataclasses.dataclass(frozen=True)
class Davis:
    """See `davis`."""

    directory: str
    split: str

    def open(self) -> Opened:
        """Read the list, and find all files."""
        manual = Manual("davis", self.directory, layout=LAYOUT)
        found = []
        for key in manual.lines(manual.need(f"ImageSets/2017/{self.split}.txt")):
            frames = numbered(manual, f"JPEGImages/480p/{key}", (".jpg", ".jpeg", ".png"))
            found.append((key, frames, paired(manual, frames, f"Annotations/480p/{key}")))
        if not found:
            raise manual.error(f"ImageSets/2017/{self.split}.txt names no video")

        def video(number: int) -> Annotated:
            key, frames, masks = found[number]
            one = of_pictures(key, frames)
            return dataclasses.replace(one, labels=lambda frame: label_map(masks[frame]) % _VOID)

        return Opened("objects", [key for key, _, _ in found], video)
