"""moving_shapes: textured shapes moving over textured backgrounds, as real H.264; nothing is downloaded.

Its classes are motions and nothing else (see `synthetic.shapes` for why). It serves to try a
method end to end, to test, and to measure whether a representation holds motion.

    call("data.synthetic.moving_shapes", settings=call("data.synthetic.moving_shapes.settings", train=2000))
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vmae_jax.data.encode import encode_h264
from vmae_jax.data.order import fold
from vmae_jax.data.smoke import drawn_clips
from vmae_jax.data.synthetic.drawn import SPLITS, DrawnClips, DrawnDataset
from vmae_jax.data.synthetic.shapes import MOTIONS, Scene, draw
from vmae_jax.data.video import Encoded
from vmae_jax.registry import register

__all__ = ["SPLITS", "Clips", "MovingShapes", "Settings", "make_clip", "moving_shapes", "settings"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """See `settings`."""

    train: int
    validation: int
    test: int
    frames: int
    rate: float
    scene: Scene
    seed: int

    @property
    def name(self) -> str:
        """The name of the folder: the sizes, and a digest of every setting."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:10]
        return f"{self.scene.size}px_{self.frames}f_{self.train}_{digest}"


@register("drawing")
def settings(
    train: int = 1000,
    validation: int = 100,
    test: int = 100,
    size: int = 64,
    frames: int = 32,
    rate: float = 12.0,
    patch: int = 8,
    speed: float = 0.1,
    contrast: float = 0.2,
    shapes: int = 2,
    clutter: int = 1,
    drift: int = 3,
    light: float = 0.0,
    seed: int = 0,
) -> Settings:
    """Return what the clips of moving_shapes look like, and how many there are.

    Args:
      train: clips of the split of that name.
      validation: likewise.
      test: likewise.
      size: pixels a side; even.
      frames: frames a clip.
      rate: frames a second that the file states.
      patch: pixels of the model's patch, the unit of `speed`.
      speed: patches that things move in a frame, on average. Harder when small (motion below the
        size of a patch) and when large (beyond a patch between two frames that a model sees).
      contrast: of the textures' grain, 0 to 1. Grain shows motion, and cannot be guessed where it is hidden.
      shapes: shapes that move, all in the same way.
      clutter: shapes that stand still; harder when many.
      drift: how often the textures' colour changes across the picture or a shape, at least 2. Easier when small: what
        is hidden then looks like what is visible beside it.
      light: how unevenly light falls on all of it, 0 to 1. Easier when large: what is visible shows the light.
      seed: another seed, other clips.
    """
    if size < 16 or size % 2:
        raise ValueError(f"size is {size}; it must be even and at least 16")
    for name, value in (("frames", frames), ("shapes", shapes), ("patch", patch), ("train", train)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not 0 <= light <= 1:
        raise ValueError(f"light is {light}; it is between 0 and 1")
    if drift < 2:
        raise ValueError(f"drift is {drift}; a colour that drifts needs at least 2")
    if min(validation, test, clutter) < 0 or speed <= 0 or rate <= 0:
        raise ValueError("validation, test and clutter may not be negative, speed and rate must be positive")
    if not 0 <= contrast <= 1:
        raise ValueError(f"contrast is {contrast}; it is between 0 and 1")
    scene = Scene(
        size=size,
        frames=frames,
        shapes=shapes,
        clutter=clutter,
        speed=speed * patch,
        contrast=contrast,
        drift=drift,
        light=light,
    )
    return Settings(train, validation, test, frames, rate, scene, seed)


@register("source", settings="drawing", smoke=drawn_clips)
def moving_shapes(settings: Any, split: str = "train", directory: str | None = None) -> "MovingShapes":
    """Drawn clips, prepared as records when they are first opened.

    Args:
      settings: call("data.synthetic.moving_shapes.settings", …).
      split: train, validation or test, or a part of one as TFDS writes it, such as "train[:10%]".
      directory: the folder that holds drawn datasets; by default one in this user's cache folder.

    Raises:
      ConfigError: if there is no such split, it has no clips, or the settings are those of another drawing.
    """
    return MovingShapes(settings, split, directory)


@dataclasses.dataclass(frozen=True)
class Clips(DrawnClips):
    """The clips of a split as a source (see `source.Source`): drawn and encoded when they are fetched."""

    @property
    def label_names(self) -> Mapping[str, tuple[str, ...]]:
        """The motions."""
        return {"label": MOTIONS}

    def fetch(self, index: int) -> Encoded:
        """Draw and encode a clip."""
        data = make_clip(self.settings, self.split, self.indices[index])
        return Encoded(data=data, labels=self.labels(index), key=self.key(index))

    def labels(self, index: int) -> Mapping[str, Any]:
        """Return the motion of a clip."""
        return {"label": self.indices[index] % len(MOTIONS)}


class MovingShapes(DrawnDataset):
    """See `moving_shapes`."""

    name = "moving_shapes"
    clips = Clips
    kind = Settings


def make_clip(settings: Settings, split: str, index: int) -> bytes:
    """Return clip `index` of `split` as a video file: a function of the settings, nothing else."""
    generator = np.random.Generator(np.random.Philox(key=fold(settings.seed, SPLITS.index(split), index)))
    frames = draw(settings.scene, MOTIONS[index % len(MOTIONS)], generator)
    return encode_h264(frames, rate=settings.rate)
