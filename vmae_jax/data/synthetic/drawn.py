"""What drawn datasets share: splits, names of clips, and records that are made when they are first opened."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from vmae_jax.data.source import Source, Stored
from vmae_jax.spec import ConfigError

__all__ = ["SPLITS", "DrawnClips", "check_split", "open_drawn"]

SPLITS = ("train", "validation", "test")
_Self = TypeVar("_Self", bound="DrawnClips")


class _Drawing(Protocol):
    """What a config holds: settings, and where the records of a split are."""

    @property
    def settings(self) -> Any: ...
    @property
    def split(self) -> str: ...
    @property
    def directory(self) -> str | None: ...


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


def check_split(name: str, settings: Any, kind: type, split: str) -> None:
    """Check the arguments of a drawn dataset.

    Args:
      name: of the dataset.
      settings: how its clips are drawn, and how many of each split there are.
      kind: the class that the settings must have.
      split: a split, or a part of one as TFDS writes it.

    Raises:
      ConfigError: if the settings are those of another dataset, or there is no such split, or it has no clips.
    """
    if not isinstance(settings, kind):
        raise ConfigError(f"{name}: settings must be data.synthetic.{name}.settings, got {settings!r:.100}")
    base = split.partition("[")[0]
    if base not in SPLITS or not getattr(settings, base):
        known = ", ".join(one for one in SPLITS if getattr(settings, one))
        raise ConfigError(f"{name} has no split {split!r} with these settings; it has {known}")


def open_drawn(name: str, clips: Callable[[Any, str, Sequence[int]], DrawnClips], drawing: _Drawing) -> Source:
    """Open the records of a drawn dataset, which are made first where they are not there yet.

    Args:
      name: of the dataset.
      clips: makes the clips of a split from the settings, the split and the numbers of the clips.
      drawing: the settings, the split, and the folder of drawn datasets (by default in this user's cache folder).

    Raises:
      MachineFault: if they cannot be written.
    """
    from vmae_jax.data.prepare.once import cache_folder, prepare_once
    from vmae_jax.data.records import open_tfds

    folder = os.path.join(drawing.directory or cache_folder(), name, drawing.settings.name)
    split = drawing.split.partition("[")[0]
    drawn = clips(drawing.settings, split, range(getattr(drawing.settings, split)))
    prepare_once(drawn, folder, name=name, split=split)
    return open_tfds(Stored(None, folder, drawing.split))
