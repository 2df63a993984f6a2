"""VIP (Video Instance Parsing), parts of people and clothes, from the owners' files.

    call("data.sequences.vip", directory="VIP")

The directory holds `Images/VIDEO/*.jpg`, `Annotations/Category_ids/VIDEO/*.png` and the list of the validation videos.
"""

import dataclasses

from vmae_jax.data.listing import Manual
from vmae_jax.data.sequences.core import Annotated, Opened, of_pictures
from vmae_jax.data.sequences.folders import numbered, paired
from vmae_jax.registry import register

__all__ = ["CLASSES", "Vip", "vip"]

LAYOUT = "Images/VIDEO/*.jpg, Annotations/Category_ids/VIDEO/*.png and lists/val_videos.txt"
CLASSES = (
    *("background", "hat", "hair", "sun-glasses", "upper-clothes", "dress", "coat", "socks", "pants", "gloves"),
    *("scarf", "skirt", "torso-skin", "face", "right-arm", "left-arm", "right-leg", "left-leg", "right-shoe"),
    "left-shoe",
)


@register("sequences")
def vip(directory: str, videos: str = "lists/val_videos.txt") -> "Vip":
    """The videos of VIP.

    Args:
      directory: the folder with the owners' files.
      videos: in it, the list of videos, the name of a folder a line.
    """
    return Vip(directory, videos)


@dataclasses.dataclass(frozen=True)
class Vip:
    """See `vip`."""

    directory: str
    videos: str

    def open(self) -> Opened:
        """Read the list, and find all files."""
        manual = Manual("vip", self.directory, layout=LAYOUT)
        found = []
        for key in manual.lines(manual.need(self.videos)):
            frames = numbered(manual, f"Images/{key}", (".jpg", ".jpeg", ".png"))
            found.append((key, frames, paired(manual, frames, f"Annotations/Category_ids/{key}")))
        if not found:
            raise manual.error(f"{self.videos} names no video")

        def video(number: int) -> Annotated:
            return of_pictures(*found[number])

        return Opened("classes", [key for key, _, _ in found], video, CLASSES)
