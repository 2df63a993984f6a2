"""moving_shapes: textured shapes moving over textured backgrounds, as real H.264; nothing is downloaded.

Its classes are motions and nothing else (see `vmae_jax.data.shapes` for why). It serves to try a
method end to end, to test, and to measure whether a representation holds motion.

    call("data.sources.tfds", name="moving_shapes", prepare=True,
         config=call("data.builders.moving_shapes.config", train=2000))
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from vmae_jax.data.encode import encode_h264
from vmae_jax.data.order import fold
from vmae_jax.data.shapes import MOTIONS, Scene, draw
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError

__all__ = ["Settings", "builder", "builder_config", "config", "make_clip"]

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Settings:
    """See `config`."""

    train: int
    validation: int
    test: int
    frames: int
    rate: float
    scene: Scene
    seed: int

    @property
    def name(self) -> str:
        """A name for the folder: the sizes, and a digest of every setting."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:10]
        return f"{self.scene.size}px_{self.frames}f_{self.train}_{digest}"


@register("dataset")
def config(
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
    """The settings of a moving_shapes data set.

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
      light: how unevenly light falls on all of it, 0 to 1. Easier when large: what is visible tells the light.
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


def make_clip(settings: Settings, split: str, index: int) -> dict[str, Any]:
    """Example `index` of `split`: a function of the settings, nothing else."""
    label = index % len(MOTIONS)
    generator = np.random.Generator(np.random.Philox(key=fold(settings.seed, SPLITS.index(split), index)))
    frames = draw(settings.scene, MOTIONS[label], generator)
    return {
        "video": encode_h264(frames, rate=settings.rate),
        "label": label,
        "key": f"{split}-{index:07d}",
        "num_frames": settings.frames,
        "rate": settings.rate,
        "height": settings.scene.size,
        "width": settings.scene.size,
    }


def builder_config(settings: Settings) -> Any:
    """The TFDS BuilderConfig that stands for `settings`."""
    if not isinstance(settings, Settings):
        raise ConfigError(f"moving_shapes takes config=data.builders.moving_shapes.config(…), not {settings!r}")
    return _config_class()(settings.name, settings)


@functools.cache
def builder() -> type:
    """The TFDS builder class; `tfds.builder("moving_shapes")` finds it once this was called."""
    from vmae_jax.data.tf import tensorflow, tensorflow_datasets

    tf, tfds = tensorflow(), tensorflow_datasets()

    class MovingShapes(tfds.core.GeneratorBasedBuilder):
        """Textured shapes that move; the class is the motion."""

        name = "moving_shapes"
        VERSION = tfds.core.Version("1.0.0")
        RELEASE_NOTES = {"1.0.0": "The first."}  # noqa: RUF012 - as TFDS has it
        BUILDER_CONFIGS = [_config_class()("default", config())]  # noqa: RUF012

        def _info(self) -> Any:
            features = tfds.features.FeaturesDict(
                {
                    "video": tfds.features.Tensor(shape=(), dtype=tf.string),
                    "label": tfds.features.ClassLabel(names=MOTIONS),
                    "key": tfds.features.Text(),
                    "num_frames": tf.int64,
                    "rate": tf.float32,
                    "height": tf.int64,
                    "width": tf.int64,
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features, description=__doc__ or "")

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager  # nothing is downloaded
            settings = self.builder_config.settings
            return {split: self._generate_examples(split) for split in SPLITS if getattr(settings, split)}

        def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
            settings = self.builder_config.settings
            yield from _clips(settings, split, getattr(settings, split))

    return MovingShapes


@functools.cache
def _config_class() -> type:
    from vmae_jax.data.tf import tensorflow_datasets

    class MovingShapesConfig(tensorflow_datasets().core.BuilderConfig):
        """A TFDS config that carries our settings."""

        def __init__(self, name: str, settings: Settings) -> None:
            super().__init__(name=name, description=repr(settings))
            self.settings = settings

    return MovingShapesConfig


def _clips(settings: Settings, split: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The clips in order, made a few ahead on all cores (NumPy and x264 release the interpreter)."""
    workers = os.cpu_count() or 1
    ahead: collections.deque[concurrent.futures.Future[dict[str, Any]]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for index in range(count):
            ahead.append(pool.submit(make_clip, settings, split, index))
            if len(ahead) > 4 * workers:
                example = ahead.popleft().result()
                yield example["key"], example
        while ahead:
            example = ahead.popleft().result()
            yield example["key"], example
