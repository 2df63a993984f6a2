"""What drawn datasets share: splits, names of clips, and records that are made when they are first opened."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from vmae_jax.data.source import Source, Stored
from vmae_jax.spec import ConfigError

__all__ = ["SPLITS", "DrawnClips", "DrawnDataset"]

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
_Self = TypeVar("_Self", bound="DrawnClips")


@dataclasses.dataclass(frozen=True)
class DrawnClips:
    """Clips of a split, which a subclass draws when they are fetched.

    Attributes:
      settings: what they look like.
      split: its name.
      indices: which of its clips.
    """

    settings: Any
    split: str
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        """Return the name of a clip."""
        return f"{self.split}-{self.indices[index]:07d}"

    def size(self, index: int) -> int:
        """Return -1: a clip has no size before it is drawn."""
        del index
        return -1

    def subset(self: _Self, indices: Sequence[int]) -> _Self:
        """Return some of the clips as a source of their own."""
        return dataclasses.replace(self, indices=[self.indices[index] for index in indices])


@dataclasses.dataclass(frozen=True)
class DrawnDataset:
    """Records of drawn clips, made when they are first opened; a subclass names the dataset and its classes.

    Attributes:
      name: of the dataset, and of its module in `data.synthetic`.
      clips: the class of its clips.
      kind: the class of its settings.
      settings: how the clips are drawn, and how many of each split there are.
      split: a split, or a part of one as TFDS writes it.
      directory: the folder of drawn datasets; by default one in this user's cache folder.

    Raises:
      ConfigError: if the settings are those of another dataset, or there is no such split, or it has no clips.
    """

    name: ClassVar[str]
    clips: ClassVar[type[DrawnClips]]
    kind: ClassVar[type]
    settings: Any
    split: str
    directory: str | None

    def __post_init__(self) -> None:
        if not isinstance(self.settings, self.kind):
            made = f"data.synthetic.{self.name}.settings"
            raise ConfigError(f"{self.name}: settings must be {made}, got {self.settings!r:.100}")
        base = self.split.partition("[")[0]
        if base not in SPLITS or not getattr(self.settings, base):
            known = ", ".join(one for one in SPLITS if getattr(self.settings, one))
            raise ConfigError(f"{self.name} has no split {self.split!r} with these settings; it has {known}")

    def open(self) -> Source:
        """Open the records, which are made first where they are not there yet.

        Raises:
          MachineFault: if they cannot be written.
        """
        from vmae_jax.data.records import open_tfds

        folder = os.path.join(self.directory or _cache_folder(), self.name, self.settings.name)
        split = self.split.partition("[")[0]
        drawn = self.clips(self.settings, split, range(getattr(self.settings, split)))
        _prepare_once(drawn, folder, name=self.name, split=split)
        return open_tfds(Stored(None, folder, self.split))


def _cache_folder() -> str:
    """Return where records are kept when a config names no place."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "vmae_jax", "datasets")


def _prepare_once(source: Any, folder: str, *, name: str, split: str) -> None:
    """Prepare a split as `vmae data prepare` does, unless it is there.

    An interrupted preparation is resumed. Of several processes one prepares, and the others wait for it.

    Args:
      source: the videos, with names, sizes and labels that are known without reading them.
      folder: of the dataset, local or gs://.
      name: of the dataset.
      split: its name.

    Raises:
      MachineFault: if the folder cannot be written.
      TooManyBadVideos: if not one video can be read.
    """
    from vmae_jax.data.prepare.inputs import listed
    from vmae_jax.data.prepare.record import options
    from vmae_jax.data.prepare.run import Plan, prepare
    from vmae_jax.data.prepare.runners import local_runner
    from vmae_jax.data.prepare.shards import layout

    chosen = options()
    place = layout(folder, name=name, split=split, file_format=chosen.file_format)
    if place.manifest.exists():
        return
    log.info("preparing %s, split %s, in %s (once)", name, split, place.out)
    inputs = listed(source)
    prepare(lambda: Plan(inputs, place, chosen), place, local_runner(progress=False), wait=True)
