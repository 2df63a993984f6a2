"""world: drawn clips with everything that a stream can read; nothing is downloaded.

Shapes fly in a room and bounce off its walls; some bounces make a tone, whose pitch follows the form, in sight or out
of it. A camera sways and turns before the room. Beside the pictures there are the sound, captions with and without
times, boxes, segments, the camera's accelerometer and gyroscope, a mask of the shapes, and the state of the world. The
class is the pace at which the shapes move; a second label, `form`, is that of the shape in front, which a single frame
shows.

    call("data.synthetic.world", settings=call("data.synthetic.world.settings", train=2000))

A clip is a function of the settings, the split and its number: its arrays are the same on every machine, and its files
are the same bytes on one machine.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from vmae_jax.data.encode import Sound, encode_h264
from vmae_jax.data.order import fold
from vmae_jax.data.synthetic.drawn import SPLITS, DrawnClips, DrawnDataset
from vmae_jax.data.synthetic.world_files import sides, sound, wav
from vmae_jax.data.synthetic.world_scene import COLOURS, FORMS, PACES, Drawn, World, draw
from vmae_jax.data.video import Encoded, Side
from vmae_jax.registry import register

__all__ = [
    "SIDES",
    "Clips",
    "DrawnWorld",
    "Settings",
    "make_clip",
    "make_world",
    "scene",
    "settings",
    "world",
    "write_folder",
]

SIDES = {
    "text": ".txt",
    "subtitles": ".srt",
    "boxes": "_boxes.csv",
    "segments": "_segments.csv",
    "imu": "_imu.csv",
    "masks": "_masks.zip",
    "state": "_state.npz",
}
_SOUNDS = {"aac": "aac", "pcm": "pcm_s16le", "beside": None}


@dataclasses.dataclass(frozen=True)
class Settings:
    """See `settings`."""

    train: int
    validation: int
    test: int
    size: int
    frames: int
    rate: float
    shapes: int
    speed: float
    silent: float
    sway: float
    roll: float
    sound: str
    sound_rate: int
    seed: int

    @property
    def name(self) -> str:
        """The name of the folder: the sizes, and a digest of every setting."""
        digest = hashlib.sha256(f"{self!r} with labels label, form".encode()).hexdigest()[:10]
        return f"{self.size}px_{self.frames}f_{self.train}_{digest}"

    @property
    def sides(self) -> dict[str, str]:
        """What is beside each clip: the end of its file's name, by the name of the side."""
        return SIDES | ({"sound": ".wav"} if self.sound == "beside" else {})


@register("drawing", smoke={"train": 16, "validation": 8, "test": 8, "size": 48, "frames": 16})
def settings(
    train: int = 1000,
    validation: int = 100,
    test: int = 100,
    size: int = 64,
    frames: int = 48,
    rate: float = 24.0,
    shapes: int = 2,
    speed: float = 0.6,
    silent: float = 0.25,
    sway: float = 0.05,
    roll: float = 0.1,
    sound: str = "aac",
    sound_rate: int = 16000,
    seed: int = 0,
) -> Settings:
    """Return what the clips of world are like, and how many there are.

    Args:
      train: clips of the split of that name.
      validation: likewise.
      test: likewise.
      size: pixels a side; even.
      frames: frames a clip.
      rate: frames a second.
      shapes: shapes in the room, no two of one colour and form.
      speed: sides of the picture that shapes move in a second at the middle one of the three paces.
      silent: share of the shapes whose bounces make no sound.
      sway: how far the camera moves to either side, in sides of the picture.
      roll: how far it turns either way, in radians.
      sound: "aac" or "pcm" in the video's file (MP4 or Matroska), or "beside" it as the side `sound`, a WAV file.
      sound_rate: samples a second.
      seed: another seed, other clips.
    """
    if size < 16 or size % 2:
        raise ValueError(f"size must be even and at least 16, got {size}")
    if min(train, frames) < 1 or min(validation, test) < 0:
        raise ValueError("train and frames must be at least 1, validation and test at least 0")
    if not 1 <= shapes <= len(COLOURS) * len(FORMS):
        raise ValueError(f"shapes must be 1 to {len(COLOURS) * len(FORMS)}, got {shapes}")
    if not (0 < speed <= 10 and 0.5 <= rate <= 240 and 0 <= silent <= 1 and 0 <= sway <= 0.5 and 0 <= roll <= 1):
        raise ValueError("speed must be in (0, 10], rate in [0.5, 240], silent and roll in [0, 1], sway in [0, 0.5]")
    if sound not in _SOUNDS or sound_rate not in (8000, 16000, 22050, 24000, 32000, 44100, 48000):
        raise ValueError(
            f"sound={sound!r}, sound_rate={sound_rate}: one of {', '.join(_SOUNDS)}, 8000 to 48000 a second"
        )
    return Settings(
        train, validation, test, size, frames, rate, shapes, speed, silent, sway, roll, sound, sound_rate, seed
    )


@register("source", settings="drawing")
def world(settings: Any, split: str = "train", directory: str | None = None) -> "DrawnWorld":
    """Drawn clips with sound and everything beside them, prepared as records when they are first opened.

    Args:
      settings: call("data.synthetic.world.settings", …).
      split: train, validation or test, or a part of one as TFDS writes it, such as "train[:10%]".
      directory: the folder that holds drawn datasets; by default one in this user's cache folder.

    Raises:
      ConfigError: if there is no such split, it has no clips, or the settings are those of another drawing.
    """
    return DrawnWorld(settings, split, directory)


@dataclasses.dataclass(frozen=True)
class Clips(DrawnClips):
    """The clips of a split as a source (see `source.Source`): drawn and encoded when they are fetched."""

    @property
    def label_names(self) -> Mapping[str, tuple[str, ...]]:
        """The paces, and the forms."""
        return {"label": tuple(PACES), "form": FORMS}

    @property
    def kinds(self) -> Mapping[str, str]:
        """How records store the label and what is beside a clip."""
        return {"label": "class", "form": "class", **dict.fromkeys(self.settings.sides, "side")}

    def fetch(self, index: int) -> Encoded:
        """Draw and encode a clip."""
        made = make_clip(self.settings, self.split, self.indices[index])
        return dataclasses.replace(made, labels=self.labels(index), key=self.key(index))

    def labels(self, index: int) -> Mapping[str, Any]:
        """Return the pace of a clip, and the form of the shape in front."""
        number = self.indices[index]
        front = scene(self.settings, self.split, number).shapes[-1]
        return {"label": number % len(PACES), "form": FORMS.index(front.form)}


class DrawnWorld(DrawnDataset):
    """See `world`."""

    name = "world"
    clips = Clips
    kind = Settings


def scene(settings: Settings, split: str, number: int) -> World:
    """Return what happens in clip `number` of `split`."""
    generator = np.random.Generator(np.random.Philox(key=fold(settings.seed, SPLITS.index(split), number)))
    return World.of(
        generator,
        count=settings.shapes,
        pace=tuple(PACES)[number % len(PACES)],
        speed=settings.speed,
        seconds=settings.frames / settings.rate,
        silent=settings.silent,
        sway=settings.sway,
        roll=settings.roll,
    )


def make_world(settings: Settings, split: str, number: int) -> tuple[World, Drawn]:
    """Return what happens in clip `number` of `split`, and its pictures."""
    made = scene(settings, split, number)
    return made, draw(made, size=settings.size, frames=settings.frames, rate=settings.rate)


def make_clip(settings: Settings, split: str, number: int) -> Encoded:
    """Return clip `number` of `split` as a video file with what is beside it: a function of the arguments alone."""
    made, drawn = make_world(settings, split, number)
    files = sides(made, drawn, settings.rate)
    samples, codec = sound(made, settings.sound_rate), _SOUNDS[settings.sound]
    inner = Sound(samples, settings.sound_rate, codec) if codec else None
    if codec is None:
        files["sound"] = wav(samples, settings.sound_rate)
    video = encode_h264(drawn.video, rate=settings.rate, sound=inner)
    return Encoded(data=video, sides={name: Side(data=data) for name, data in files.items()})


def write_folder(folder: str, count: int, settings: Settings, split: str = "train") -> list[str]:
    """Write clips of a split as loose video files with everything beside them; `Settings.sides` has the suffixes.

    Returns:
      the paths of the videos.
    """
    os.makedirs(folder, exist_ok=True)
    clips = Clips(settings, split, range(count))
    paths = []
    for index in range(count):
        clip, stem = clips.fetch(index), os.path.join(folder, clips.key(index))
        paths.append(stem + (".mkv" if settings.sound == "pcm" else ".mp4"))
        assert clip.data is not None
        files = {paths[-1]: clip.data}
        files |= {stem + suffix: clip.sides[name].data or b"" for name, suffix in settings.sides.items()}
        for path, data in files.items():
            with open(path, "wb") as file:
                file.write(data)
    return paths
