"""What every source of videos is, open or not; which records a dataset of TFDS names; and what `smoke` reads."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from ml_collections import ConfigDict

from vmae_jax.data.video import Encoded
from vmae_jax.spec import call

__all__ = ["Opener", "Source", "Stored", "drawn_clips", "drawn_states"]


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


def drawn_clips(arguments: Mapping[str, Any] | None = None) -> ConfigDict:
    """Return the call of the source that replaces any other at `smoke` size; `arguments` are those of the other."""
    del arguments
    settings = call("data.synthetic.moving_shapes.settings", train=16, validation=8, test=8, size=48, frames=16)
    return call("data.synthetic.moving_shapes", settings=settings)


def drawn_states() -> ConfigDict:
    """Return the call of the source that replaces one of features at `smoke` size; a frame's vector has 7 numbers."""
    settings = call("data.synthetic.world.settings", train=16, validation=8, test=8, size=16, frames=16, shapes=2)
    return call("data.synthetic.world", settings=settings)
