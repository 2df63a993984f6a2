"""Small views of clips: random crops, mirrored and with other colours, made on the device."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from vmae_jax.augment.colors import Colors
from vmae_jax.registry import register
from vmae_jax.types import stream, typed

__all__ = ["Views", "views"]


@dataclasses.dataclass(frozen=True)
class Views:
    """See `views`."""

    count: int
    size: int
    area: tuple[float, float]
    ratio: tuple[float, float]
    flip: float
    colors: Colors | None

    @typed
    def __call__(
        self, video: Shaped[Array, "b t h w c"], keys: Key[Array, "b"], dtype: Any = jnp.float32
    ) -> Float[Array, "b t y x c"]:
        """Return one view of each clip, with pixels from 0 to 255; all its frames have the same crop and colours.

        Args:
          video: clips of uint8.
          keys: one key per clip and view.
          dtype: of the products that scale the pictures.
        """
        height, width = video.shape[2:4]
        rows, columns = jax.vmap(lambda key: self._weights(key, height, width))(stream(keys, "crop"))
        with jax.named_scope("views"):
            rows, columns, video = (x.astype(dtype) for x in (rows, columns, video))
            low = jnp.einsum("byh,bthwc->btywc", rows, video)
            found = jnp.einsum("bxw,btywc->btyxc", columns, low, preferred_element_type=jnp.float32)
            found = jnp.clip(found, 0.0, 255.0)
            return found if self.colors is None else self.colors(found / 255.0, keys) * 255.0

    def _weights(self, key: Array, height: int, width: int) -> tuple[Array, Array]:
        """Return the matrices that cut and scale rows [y h] and columns [x w] of one clip."""
        draw = lambda name, low, high: jax.random.uniform(stream(key, name), (), minval=low, maxval=high)  # noqa: E731
        area = draw("area", *self.area) * height * width
        ratio = jnp.exp(draw("ratio", *map(math.log, self.ratio)))
        y, x = jnp.minimum(jnp.sqrt(area / ratio), height), jnp.minimum(jnp.sqrt(area * ratio), width)
        rows = _scaled(draw("top", 0.0, 1.0) * (height - y), y, height, self.size)
        columns = _scaled(draw("left", 0.0, 1.0) * (width - x), x, width, self.size)
        return rows, jnp.where(draw("flip", 0.0, 1.0) < self.flip, columns[::-1], columns)


def _scaled(start: Array, length: Array, old: int, new: int) -> Float[Array, "new old"]:
    """The matrix that scales `length` of `old` samples from `start` on to `new`: linear, and antialiased if smaller."""
    step = length / new
    places = start + (jnp.arange(new) + 0.5) * step - 0.5
    weights = jnp.maximum(1.0 - jnp.abs(jnp.arange(old) - places[:, None]) / jnp.maximum(step, 1.0), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"count": min(given["count"], 2), "size": 16}


@register("views", colors="colors", smoke=_smoke)
def views(
    count: int = 10,
    size: int = 96,
    area: Sequence[float] = (0.02, 0.4),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    colors: Colors | None = None,
) -> Views:
    """Small views of each clip: a crop of random place, area and shape, scaled to a square, for all frames.

    Args:
      count: the number of views of a clip.
      size: the side of a view in pixels.
      area: the range of the crop's share of the picture.
      ratio: the range of its width over its height, drawn on a logarithmic scale. A side that would be longer than the
        picture is cut to it.
      flip: the probability that a view is mirrored.
      colors: changes of the colours, such as `augment.colors.jitter`.

    Raises:
      ValueError: if a number is out of range.
    """
    if count < 1 or size < 1:
        raise ValueError(f"count={count}, size={size}: at least 1")
    if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
        raise ValueError(f"area={list(area)}: two ascending shares above 0 and at most 1")
    if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1] < math.inf:
        raise ValueError(f"ratio={list(ratio)}: two ascending numbers above 0")
    if not 0 <= flip <= 1:
        raise ValueError(f"flip={flip}: a probability")
    return Views(count, size, (area[0], area[1]), (ratio[0], ratio[1]), flip, colors)
