"""Histograms of oriented gradients as a target (Dalal & Triggs 2005; MaskFeat, MME)."""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from vmae_jax.patches import Patch, gather
from vmae_jax.registry import register
from vmae_jax.types import Batch

__all__ = ["Hog", "hog"]

EPSILON = 1e-6  # added to the length of a histogram
_SMOOTH = (1.0, 2.0, 1.0)  # Sobel's


@dataclasses.dataclass(frozen=True)
class Hog:
    """The target of `hog`."""

    bins: int
    cells: int
    frame: int
    normalize: bool
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, batch: Batch, decode: Int[Array, "b k"], patch: Patch) -> Float[Array, "b k q"]:
        if patch.h % self.cells or patch.w % self.cells:
            raise ValueError(f"hog: patches of {patch.h}x{patch.w} pixels do not divide into {self.cells} cells a side")
        if not -patch.t <= self.frame < patch.t:
            raise ValueError(f"hog: there is no frame {self.frame} in cubes of {patch.t} frames")
        frames = jnp.asarray(batch["video"])[:, self.frame % patch.t :: patch.t]
        unit = frames.astype(jnp.float32) / 255.0
        scaled = (unit - jnp.asarray(self.mean)) / jnp.asarray(self.deviation)
        found = self.histograms(scaled, patch.h // self.cells, patch.w // self.cells)
        order = "b t (h y) (w x) c k -> b (t h w) (y x c k)"
        return gather(rearrange(found, order, y=self.cells, x=self.cells), decode)

    def histograms(self, frames: Float[Array, "b t h w c"], height: int, width: int) -> Float[Array, "b t y x c k"]:
        """Return the histogram of each channel in cells of so many pixels, averaged over these."""
        across, down = _sobel(frames)
        strength = jnp.sqrt(jnp.square(across) + jnp.square(down))
        place = jnp.mod(jnp.arctan2(down, across), math.pi) * (self.bins / math.pi)
        low = jnp.floor(place)
        share = place - low
        cells = []
        for number in range(self.bins):
            below, above = (jnp.mod(one, self.bins) == number for one in (low, low + 1))
            part = strength * (jnp.where(below, 1 - share, 0.0) + jnp.where(above, share, 0.0))
            b, t, h, w, c = part.shape
            cells.append(part.reshape(b, t, h // height, height, w // width, width, c).mean(axis=(3, 5)))
        found = jnp.stack(cells, axis=-1)
        if not self.normalize:
            return found
        return found / (jnp.sqrt(jnp.square(found).sum(axis=-1, keepdims=True)) + EPSILON)


def _sobel(frames: Float[Array, "b t h w c"]) -> tuple[Array, Array]:
    """Return the derivatives to the right and downwards, times 8; pixels at the border are repeated."""
    wide = jnp.pad(frames, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = frames.shape[2:4]
    rows = [wide[:, :, i : i + height] for i in range(3)]
    columns = [wide[:, :, :, i : i + width] for i in range(3)]
    down, across = rows[2] - rows[0], columns[2] - columns[0]
    across = sum(weight * across[:, :, i : i + height] for i, weight in enumerate(_SMOOTH))
    down = sum(weight * down[:, :, :, i : i + width] for i, weight in enumerate(_SMOOTH))
    return jnp.asarray(across), jnp.asarray(down)


@register("target")
def hog(
    bins: int = 9,
    cells: int = 2,
    frame: int = -1,
    normalize: bool = False,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    deviation: Sequence[float] = (0.229, 0.224, 0.225),
) -> Hog:
    """Predict histograms of oriented gradients: how strong edges of each direction are in the cells of a patch.

    Sobel's derivatives of each channel; the direction without its sign, in bins of equal size whose first is that of a
    vertical edge; each gradient is shared by the two nearest bins, and cells are averages. With the default of four
    cells, three channels and nine bins a token has 108 values.

    Args:
      bins: of half a turn.
      cells: of a patch, along each side.
      frame: of the frames of a cube; the last by default.
      normalize: divide each histogram by its length (MaskFeat); MME does not.
      mean, deviation: those of the dataset, by which pixels are scaled first.

    Raises:
      ValueError: if a number is out of range; when it is used, if cells do not divide a patch.

    Source: MME (Sun et al. 2023). Its code drops gradients whose direction is exactly that of a bin; here they count.
    """
    if bins < 2 or cells < 1:
        raise ValueError(f"bins={bins}, cells={cells}: at least 2, at least 1")
    if not mean or not deviation or min(deviation) <= 0:
        raise ValueError(f"deviation must be above 0, one number or one for each channel; got {list(deviation)}")
    return Hog(bins, cells, frame, normalize, tuple(map(float, mean)), tuple(map(float, deviation)))
