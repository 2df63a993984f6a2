"""Differences of frames as a target (MotionMAE)."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vmae_jax.patches import Patch, gather_cubes
from vmae_jax.registry import register
from vmae_jax.targets.pixels import to_unit
from vmae_jax.types import Batch

__all__ = ["Difference", "difference"]

EPSILON = 1e-6  # added to a variance


@dataclasses.dataclass(frozen=True)
class Difference:
    """The target of `difference`."""

    gap: int
    normalize: bool

    def __call__(self, batch: Batch, decode: Int[Array, "b k"], patch: Patch) -> Float[Array, "b k q"]:
        if patch.t <= self.gap:
            raise ValueError(f"difference: gap={self.gap} must be less than the {patch.t} frames of a cube")
        cubes = to_unit(gather_cubes(batch["video"], decode, patch))
        frames = cubes.reshape(*cubes.shape[:2], patch.t, -1)
        change = jnp.abs(frames[:, :, self.gap :] - frames[:, :, : -self.gap]).reshape(*cubes.shape[:2], -1)
        if not self.normalize:
            return change
        mean, variance = change.mean(-1, keepdims=True), change.var(-1, keepdims=True, ddof=1)
        return (change - mean) / jnp.sqrt(variance + EPSILON)


@register("target")
def difference(gap: int = 1, normalize: bool = False) -> Difference:
    """Predict the absolute difference of a cube's frames that are `gap` apart, of pixels in [0, 1].

    A cube of 2x16x16 gives one map of 16x16 with a value for each channel. Where nothing moves the target is 0.

    Args:
      gap: the distance in frames of the clip, less than the frames of a cube.
      normalize: subtract each cube's mean and divide by its deviation, which amplifies noise where nothing moves.

    Raises:
      ValueError: if the gap is below 1, or (when it is used) as long as a cube.

    Source: the paper of MotionMAE (Yang et al. 2022), whose code is not public; the frames of one cube, and no
    normalisation by default, are our reading of it.
    """
    if gap < 1:
        raise ValueError(f"gap={gap}: at least 1")
    return Difference(gap, normalize)
