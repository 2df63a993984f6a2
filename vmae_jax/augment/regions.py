"""Random regions of clips, drawn on the device."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vmae_jax.registry import register
from vmae_jax.types import stream, typed

__all__ = ["Regions", "random_boxes"]


@dataclasses.dataclass(frozen=True)
class Regions:
    """See `random_boxes`."""

    count: int
    width: tuple[float, float]
    aspect: tuple[float, float]

    @typed
    def __call__(self, keys: Key[Array, "b"]) -> Float[Array, "b n 4"]:
        """Return boxes of each clip: x0, y0, x1, y1 as shares of what it shows.

        Args:
          keys: one key per clip.
        """

        def draw(name: str, low: float, high: float) -> Array:
            one = lambda key: jax.random.uniform(key, (self.count,), minval=low, maxval=high)  # noqa: E731
            return jax.vmap(one)(stream(keys, name))

        x, y, wide = draw("x", 0.0, 1.0), draw("y", 0.0, 1.0), draw("width", *self.width)
        tall = wide * draw("aspect", *self.aspect)
        return jnp.stack([x, y, jnp.minimum(x + wide, 1.0), jnp.minimum(y + tall, 1.0)], axis=-1)


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"count": min(given.get("count", 8), 2)}


@register("regions", smoke=_smoke)
def random_boxes(count: int = 8, width: Sequence[float] = (0.1, 0.5), aspect: Sequence[float] = (0.5, 2.0)) -> Regions:
    """Boxes of random place, width and shape in each clip (ConST-CL).

    The upper left corner is anywhere in the picture. What is outside is cut off.

    Args:
      count: the number of boxes of a clip.
      width: the range of the width, as a share of the picture's.
      aspect: the range of the height over the width, both as shares of the picture's sides.

    Raises:
      ValueError: if a number is out of range.
    """
    if count < 1:
        raise ValueError(f"count={count}: it must be at least 1")
    for name, given in (("width", width), ("aspect", aspect)):
        if len(given) != 2 or not 0 < given[0] <= given[1]:
            raise ValueError(f"{name}={list(given)}: two ascending numbers above 0")
    if width[1] > 1:
        raise ValueError(f"width={list(width)}: shares of the picture's width, at most 1")
    return Regions(count, (width[0], width[1]), (aspect[0], aspect[1]))
