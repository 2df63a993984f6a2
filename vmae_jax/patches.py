"""Between videos and cubes: a cube is one token's pixels, flattened in (t, y, x, c) order."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Int, Shaped

from vmae_jax.types import Grid, typed

__all__ = ["Patch", "gather", "gather_cubes", "grid_of", "patchify", "unpatchify"]


Pixels = Array | np.ndarray  # a batch may come straight from the host


class Patch(NamedTuple):
    """The size of a cube (tubelet): t frames of h by w pixels."""

    t: int
    h: int
    w: int


def grid_of(shape: tuple[int, ...], patch: Patch) -> Grid:
    """The token grid of a video of `shape` [..., t, h, w, c].

    Raises:
      ValueError: a side of the video is not a multiple of the cube's.
    """
    t, h, w = shape[-4:-1]
    if t % patch.t or h % patch.h or w % patch.w or 0 in (t, h, w):
        raise ValueError(
            f"a video of {t} frames of {h}x{w} pixels does not divide into cubes of "
            f"{patch.t}x{patch.h}x{patch.w}: use a multiple of each"
        )
    return Grid(t // patch.t, h // patch.h, w // patch.w)


@typed
def patchify(video: Shaped[Pixels, "b t h w c"], patch: Patch) -> Shaped[Pixels, "b n p"]:
    """Every cube of the video, tokens in (t, h, w) order; any dtype, unchanged."""
    grid = grid_of(video.shape, patch)
    b, t, h, w, c = video.shape
    # Channels stay beside their columns. A TPU pads the last dimension to 128: of 48 in place of 3, it moves a
    # fifth of the bytes. The barrier keeps the compiler from taking them apart again.
    rows = video.reshape(b, t, h, w * c)
    rows = rows if isinstance(video, np.ndarray) else jax.lax.optimization_barrier(rows)
    return rearrange(
        rows, "b (t pt) (h ph) (w x) -> b (t h w) (pt ph x)", pt=patch.t, ph=patch.h, t=grid.t, x=patch.w * c
    )


@typed
def unpatchify(cubes: Shaped[Pixels, "b n p"], grid: Grid, patch: Patch) -> Shaped[Pixels, "b t h w c"]:
    """The inverse of `patchify`."""
    return rearrange(
        cubes,
        "b (t h w) (pt ph pw c) -> b (t pt) (h ph) (w pw) c",
        t=grid.t,
        h=grid.h,
        w=grid.w,
        pt=patch.t,
        ph=patch.h,
        pw=patch.w,
    )


@typed
def gather(tokens: Shaped[Pixels, "b n d"], index: Int[Array, "b k"]) -> Shaped[Array, "b k d"]:
    """The rows `index` of each example's tokens."""
    return jnp.take_along_axis(tokens, index[..., None], axis=1, mode="clip")


@typed
def gather_cubes(video: Shaped[Pixels, "b t h w c"], index: Int[Array, "b k"], patch: Patch) -> Shaped[Array, "b k p"]:
    """The cubes `index` of each video, still in the video's dtype.

    The whole video is only ever moved as it came (uint8): what is computed on, in floating
    point, is these cubes alone.
    """
    return gather(patchify(jnp.asarray(video), patch), index)
