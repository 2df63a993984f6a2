"""Clips of the drawn world with the numbers of their shapes: a benchmark that needs no download.

call("data.sequences.drawn", settings=call("data.synthetic.world.settings", test=20))
"""

import dataclasses
from typing import Any

from vmae_jax.data.sequences.core import Annotated, Opened
from vmae_jax.data.synthetic.drawn import SPLITS
from vmae_jax.data.synthetic.world import Settings, make_world
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError

__all__ = ["DrawnSequences", "drawn"]


@register("sequences", settings="drawing")
def drawn(settings: Any, split: str = "test") -> "DrawnSequences":
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
    return DrawnSequences(settings, split)


@dataclasses.dataclass(frozen=True)
class DrawnSequences:
    """See `drawn`."""

    settings: Settings
    split: str

    def open(self) -> Opened:
        """Return the clips, each drawn when it is read."""

        def video(number: int) -> Annotated:
            pictures = make_world(self.settings, self.split, number)[1]
            return Annotated(
                keys[number], len(pictures.video), pictures.video.__getitem__, pictures.numbers.__getitem__
            )

        keys = [f"{self.split}-{number:07d}" for number in range(getattr(self.settings, self.split))]
        return Opened("objects", keys, video)
