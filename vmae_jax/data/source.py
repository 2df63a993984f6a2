"""What every source of videos is, open or not, and which records a dataset of TFDS names."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from vmae_jax.data.video import Encoded

__all__ = ["Opener", "Source", "Stored"]


class Source(Protocol):
    """Videos by number. `label_names` holds, by label, the names of its classes in order, where they have names."""

    label_names: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int: ...

    def fetch(self, index: int) -> Encoded:
        """The encoded example, not decoded. Raises BadVideo when it cannot be fetched."""
        ...


class Opener(Protocol):
    """What a config holds: a source that is not open yet."""

    def open(self) -> Source: ...


@dataclasses.dataclass(frozen=True)
class Stored:
    """Records that TFDS opens; the attributes are the arguments of `sources.tfds`, `features` the last three."""

    name: str | None
    directory: str | None
    split: str
    data_dir: str | None = None
    features: tuple[str, str, str] = ("video", "label", "key")
