"""Videos whose every frame is annotated, whole and in order: what label propagation is evaluated on.

    call("data.sequences.davis", directory="DAVIS")     # objects
    call("data.sequences.vip", directory="VIP")         # classes: parts of people, and clothes
    call("data.sequences.jhmdb", directory="jhmdb")     # joints
    call("data.sequences.drawn", settings=call("data.synthetic.world.settings", test=20))  # needs no download

A benchmark is a function that is registered as "sequences" and returns a frozen value. It touches no disk before its
`open()`, which returns `Opened`, or raises ConfigError if a file is missing or malformed.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vmae_jax.data.listing import Manual
from vmae_jax.data.readers import open_stills
from vmae_jax.data.synthetic.drawn import SPLITS
from vmae_jax.data.synthetic.world import Settings, make_world
from vmae_jax.data.video import BadVideo, Limits
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError

__all__ = ["TASKS", "VIP_CLASSES", "Annotated", "Opened", "davis", "drawn", "jhmdb", "vip"]

# Objects of a video (numbers of its own), classes (numbers of the dataset), or points.
TASKS = ("objects", "classes", "joints")
VIP_CLASSES = (
    *("background", "hat", "hair", "sun-glasses", "upper-clothes", "dress", "coat", "socks", "pants", "gloves"),
    *("scarf", "skirt", "torso-skin", "face", "right-arm", "left-arm", "right-leg", "left-leg", "right-shoe"),
    "left-shoe",
)
_JHMDB = (
    "splits/CLASS_test_split1.txt, …, Rename_Images/CLASS/VIDEO/*.png and "
    "joint_positions/CLASS/VIDEO/joint_positions.mat"
)
_JHMDB_TEST = "2"  # the part of a video in the lists
_VOID = 255  # of DAVIS's annotations: counted as background
_PICTURES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class Annotated:
    """A video with its annotations.

    Attributes:
      key: its name.
      length: frames.
      picture: returns a frame by its number, uint8 [h w 3].
      labels: returns the labels of a frame by its number, uint8 [h w], 0 for the background; None if points are
        annotated.
      points: places in pixels (x, y), the first pixel's centre at 0, [frames points 2]; None if pixels are labelled.
    """

    key: str
    length: int
    picture: Callable[[int], np.ndarray]
    labels: Callable[[int], np.ndarray] | None = None
    points: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Opened:
    """The videos of a benchmark.

    Attributes:
      task: one of TASKS.
      keys: the names of the videos.
      video: returns a video by its number.
      classes: names of the classes, for the task "classes".
    """

    task: str
    keys: Sequence[str]
    video: Callable[[int], Annotated]
    classes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Annotated]:
        return map(self.video, range(len(self.keys)))

    def facts(self) -> dict[str, Any]:
        """Return what must be equal on all hosts."""
        return {"videos": len(self), "names": hashlib.sha256("\n".join(self.keys).encode()).hexdigest()[:12]}


@register("sequences")
def davis(directory: str, split: str = "val") -> "Masked":
    """DAVIS 2017 at 480p: objects through a video.

    Args:
      directory: the owners' `DAVIS` of DAVIS-2017-trainval-480p.zip: `JPEGImages/480p/VIDEO/*.jpg`,
        `Annotations/480p/VIDEO/*.png` and `ImageSets/2017/val.txt`.
      split: the list of videos in `ImageSets/2017`, "val" (30 videos) or "train".
    """
    folders = ("JPEGImages/480p", "Annotations/480p")
    return Masked("davis", "objects", directory, f"ImageSets/2017/{split}.txt", folders, void=_VOID)


@register("sequences")
def vip(directory: str, videos: str = "lists/val_videos.txt") -> "Masked":
    """VIP (Video Instance Parsing): parts of people, and clothes.

    Args:
      directory: the folder with the owners' files: `Images/VIDEO/*.jpg`, `Annotations/Category_ids/VIDEO/*.png` and the
        list of the validation videos.
      videos: in it, the list of videos, the name of a folder a line.
    """
    folders = ("Images", "Annotations/Category_ids")
    return Masked("vip", "classes", directory, videos, folders, VIP_CLASSES)


@dataclasses.dataclass(frozen=True)
class Masked:
    """Videos with a PNG of labels for each frame, in folders with the names of a list.

    Attributes:
      dataset: its name, for messages.
      task: one of TASKS.
      directory: the folder with the owners' files.
      videos: in it, the list of videos.
      folders: in it, those of the pictures and of the labels.
      classes: their names, for the task "classes".
      void: the number that counts as background, if any; it is larger than all others.
    """

    dataset: str
    task: str
    directory: str
    videos: str
    folders: tuple[str, str]
    classes: tuple[str, ...] = ()
    void: int | None = None

    def open(self) -> Opened:
        """Read the list, and find all files."""
        layout = f"{self.folders[0]}/VIDEO/*.jpg, {self.folders[1]}/VIDEO/*.png and {self.videos}"
        manual = Manual(self.dataset, self.directory, layout=layout)
        found = []
        for key in manual.lines(manual.need(self.videos)):
            pictures, labels = (f"{folder}/{key}" for folder in self.folders)
            frames = _numbered(manual, pictures, _PICTURES)
            found.append((key, frames, _paired(manual, frames, labels)))
        if not found:
            raise manual.error(f"{self.videos} names no video")

        def video(number: int) -> Annotated:
            key, frames, masks = found[number]

            def labels(frame: int) -> np.ndarray:
                numbers = _label_map(masks[frame])
                return numbers if self.void is None else numbers % self.void

            return _of_pictures(key, frames, labels=labels)

        return Opened(self.task, [key for key, _, _ in found], video, self.classes)


@register("sequences")
def jhmdb(directory: str, split: int = 1) -> "Jhmdb":
    """The test videos of one of the three splits of JHMDB: fifteen joints of a person.

    Args:
      directory: the folder with the owners' files: `splits/CLASS_test_split1.txt`, …, `Rename_Images/CLASS/VIDEO/*.png`
        and `joint_positions/CLASS/VIDEO/joint_positions.mat`.
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
        manual = Manual("jhmdb", self.directory, layout=_JHMDB)
        folder = manual.need("splits")
        lists = sorted(name for name in os.listdir(folder) if re.fullmatch(rf".+_test_split{self.split}\.txt", name))
        found = []
        for name in lists:
            group = name.removesuffix(f"_test_split{self.split}.txt")
            for line in manual.lines(os.path.join(folder, name)):
                file, _, part = line.rpartition(" ")
                if part not in ("1", _JHMDB_TEST):
                    raise manual.error(f"splits/{name} has {line!r}, where a name and 1 or 2 are expected")
                if part == _JHMDB_TEST:
                    key = f"{group}/{os.path.splitext(file.strip())[0]}"
                    frames = _numbered(manual, f"Rename_Images/{key}", (".png", ".jpg"))
                    found.append((key, frames, manual.need(f"joint_positions/{key}/joint_positions.mat")))
        if not found:
            raise manual.error(f"the lists of split {self.split} in splits name no test video")

        def video(number: int) -> Annotated:
            key, frames, file = found[number]
            points = _joints(manual, file)
            length = min(len(frames), len(points))
            return _of_pictures(key, frames[:length], points=points[:length])

        return Opened("joints", [key for key, _, _ in found], video)


def _joints(manual: Manual, path: str) -> np.ndarray:
    """Return the joints of a MAT file, [frames joints 2]; pixels are counted from 1 there."""
    from scipy.io import loadmat

    try:
        places = loadmat(path, variable_names=["pos_img"])["pos_img"]
    except Exception as error:  # scipy raises errors of many kinds for malformed files
        raise manual.error(f"{path} cannot be read as a MAT file with pos_img ({error})") from error
    if places.ndim != 3 or places.shape[0] != 2 or not np.isfinite(places).all():
        raise manual.error(f"{path} has a pos_img of {list(places.shape)}, where 2 x joints x frames are expected")
    return np.asarray(places, np.float64).transpose(2, 1, 0) - 1


@register("sequences", settings="drawing")
def drawn(settings: Any, split: str = "test") -> "Drawn":
    """Clips of `data.synthetic.world`, whose objects are the shapes.

    Args:
      settings: call("data.synthetic.world.settings", …).
      split: train, validation or test.

    Raises:
      ConfigError: if the settings are those of another drawing, or the split has no clips.
    """
    if not isinstance(settings, Settings):
        raise ConfigError(f"drawn: settings must be data.synthetic.world.settings, got {settings!r:.100}")
    if split not in SPLITS or not getattr(settings, split):
        raise ConfigError(f"drawn: these settings have no split {split!r}")
    return Drawn(settings, split)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """See `drawn`."""

    settings: Settings
    split: str

    def open(self) -> Opened:
        """Return the clips, each drawn when it is read."""

        def video(number: int) -> Annotated:
            made = make_world(self.settings, self.split, number)[1]
            return Annotated(keys[number], len(made.video), made.video.__getitem__, made.numbers.__getitem__)

        keys = [f"{self.split}-{number:07d}" for number in range(getattr(self.settings, self.split))]
        return Opened("objects", keys, video)


def _of_pictures(key: str, frames: Sequence[str], **annotations: Any) -> Annotated:
    """Return a video of picture files."""

    def picture(number: int) -> np.ndarray:
        try:
            return next(open_stills([frames[number]], rate=None, limits=Limits()).pictures([0], 3))
        except BadVideo as error:
            raise ConfigError(f"{frames[number]}: {error}") from error

    return Annotated(key, len(frames), picture, **annotations)


def _label_map(path: str) -> np.ndarray:
    """Return the numbers of a PNG with a palette or of one channel, uint8 [h w].

    Raises:
      ConfigError: if it is no such file.
    """
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            small = picture.width * picture.height <= Limits().pixels
            numbers = np.asarray(picture) if small and picture.mode in ("P", "L") else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path} cannot be read as a PNG of labels ({error})") from error
    if numbers is None:
        raise ConfigError(f"{path}: a PNG of labels has a palette or one channel of 8 bits, not {picture.mode}")
    return numbers


def _numbered(manual: Manual, folder: str, suffixes: Sequence[str]) -> list[str]:
    """Return the pictures of a folder in the order of the numbers that they are named by.

    Raises:
      ConfigError: if there is no such folder, no picture in it, or one whose name is no number.
    """
    path = manual.need(folder)
    names = [name for name in os.listdir(path) if os.path.splitext(name)[1].lower() in suffixes]
    wrong = [name for name in names if not os.path.splitext(name)[0].isdecimal()]
    if wrong or not names:
        raise manual.error(f"{folder} has {f'{wrong[0]!r}, whose name is no number' if wrong else 'no picture'}")
    return [os.path.join(path, name) for name in sorted(names, key=lambda name: int(os.path.splitext(name)[0]))]


def _paired(manual: Manual, frames: Sequence[str], folder: str) -> list[str]:
    """Return the PNG of labels of each frame, which has the frame's number.

    Raises:
      ConfigError: if a frame has none.
    """
    labels = {int(os.path.splitext(os.path.basename(path))[0]): path for path in _numbered(manual, folder, (".png",))}
    numbers = [int(os.path.splitext(os.path.basename(path))[0]) for path in frames]
    lacking = [path for path, number in zip(frames, numbers, strict=True) if number not in labels]
    if lacking:
        raise manual.error(f"{folder} has no labels of {os.path.basename(lacking[0])}")
    return [labels[number] for number in numbers]
