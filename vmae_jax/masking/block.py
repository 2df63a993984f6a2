"""Space-time block masking: hidden tokens form boxes (BEiT, MAE-ST, V-JEPA)."""

import jax
import jax.numpy as jnp

from vmae_jax.masking.core import Masker, check_ratio, ranks
from vmae_jax.registry import register
from vmae_jax.types import Grid, stream

__all__ = ["block"]


@register("mask")
def block(ratio: float = 0.9, count: int = 8, share: float = 0.15, full_time: bool = False) -> Masker:
    """Hide int(ratio * n) tokens, beginning with those that are covered by the most of `count` random boxes.

    Tokens covered by equally many boxes are hidden in random order, so the number of hidden tokens is always
    the same.

    Args:
      ratio: the share of tokens that is hidden.
      count: the number of boxes, which may overlap.
      share: the share of a slot's area that one box covers.
      full_time: whether boxes extend through all slots (V-JEPA); otherwise through half of them, from a random one.
    """
    check_ratio(ratio)
    if count < 1 or not 0 < share <= 1:
        raise ValueError(f"block masks need count >= 1 and a share in (0, 1], got {count} and {share}")

    def score(keys, batch, grid: Grid):
        del batch
        cover = jax.vmap(lambda key: _cover(key, grid, count, share, full_time))(stream(keys, "boxes"))
        return ranks(stream(keys, "ties"), grid.size) / grid.size - cover

    return Masker(keep=lambda grid: grid.size - int(ratio * grid.size), score=score)


def _cover(key, grid: Grid, count: int, share: float, full_time: bool):
    """Return how many of `count` random boxes cover each token, [n]."""
    aspect_key, corner_key = jax.random.split(key)
    # The aspect ratio is log-uniform in [3/4, 4/3]: boxes are neither narrow nor always square.
    aspect = jnp.exp(jax.random.uniform(aspect_key, (count,), minval=-0.2877, maxval=0.2877))
    area = share * grid.slot
    height = jnp.clip(jnp.round(jnp.sqrt(area * aspect)), 1, grid.h)
    width = jnp.clip(jnp.round(jnp.sqrt(area / aspect)), 1, grid.w)
    length = jnp.full((count,), grid.t if full_time else max(1, (grid.t + 1) // 2))
    size = jnp.stack([length.astype(jnp.float32), height, width], axis=1)
    room = jnp.asarray([grid.t, grid.h, grid.w], jnp.float32) - size + 1
    corner = jnp.floor(jax.random.uniform(corner_key, (count, 3)) * room)
    inside = [
        (jnp.arange(n)[None] >= corner[:, i, None]) & (jnp.arange(n)[None] < (corner + size)[:, i, None])
        for i, n in enumerate((grid.t, grid.h, grid.w))
    ]
    boxes = inside[0][:, :, None, None] & inside[1][:, None, :, None] & inside[2][:, None, None, :]
    return boxes.sum(axis=0).astype(jnp.float32).reshape(-1)
