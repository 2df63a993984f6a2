"""Pixels as targets: raw, or each cube normalised by its own mean and deviation (VideoMAE, MAE, MAE-ST)."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from vmae_jax.patches import Patch, gather_cubes
from vmae_jax.registry import register
from vmae_jax.types import Batch, typed

__all__ = ["Pixels", "pixels", "to_unit"]

EPSILON = 1e-6  # added to a deviation per channel, and to a joint variance, as the official codes do


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The target of `pixels`, and its inverse, which makes pictures of predictions.

    Attributes:
      normalize, joint, frames, first: as in `pixels`.
      mean, deviation: those of the dataset, one for all channels or one per channel.
    """

    normalize: bool
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)
    joint: bool = False
    frames: int | None = None
    first: bool = False

    def __call__(self, batch: Batch, decode: Int[Array, "b k"], patch: Patch) -> Float[Array, "b k p"]:
        video, patch = self.shown(jnp.asarray(batch["video"]), patch)
        cubes = self.scaled(gather_cubes(video, decode, patch), video.shape[-1])
        if not self.normalize:
            return cubes
        mean, deviation = self.statistics(cubes, video.shape[-1])
        return ((_split(cubes, video.shape[-1]) - mean) / deviation).reshape(cubes.shape)

    def shown(self, video: Shaped[Array, "b t h w c"], patch: Patch) -> tuple[Shaped[Array, "b f h w c"], Patch]:
        """Return the frames that are predicted, and the cubes into which a grid of the same tokens divides them.

        Raises:
          ValueError: if they do not divide evenly among the slots of the grid.
        """
        if self.first:
            return video[:, :: patch.t], patch._replace(t=1)
        if self.frames is None:
            return video, patch
        whole = video.shape[1]
        if not 1 < self.frames <= whole or self.frames * patch.t % whole:
            raise ValueError(
                f"pixels: {self.frames} frames of {whole} do not divide into the {whole // patch.t} slots of the grid"
            )
        index = np.arange(self.frames) * (whole - 1) // (self.frames - 1)
        return video[:, index], patch._replace(t=patch.t * self.frames // whole)

    def scaled(self, cubes: Shaped[Array | np.ndarray, "b k p"], channels: int) -> Float[Array, "b k p"]:
        """Return uint8 pixels as float32 in [0, 1], minus the mean of the dataset, divided by its deviation."""
        unit = to_unit(cubes)
        if (self.mean, self.deviation) == ((0.0,), (1.0,)):
            return unit
        split = (_split(unit, channels) - jnp.asarray(self.mean)) / jnp.asarray(self.deviation)
        return split.reshape(unit.shape)

    def unit(self, cubes: Shaped[Array | np.ndarray, "b k p"]) -> Float[Array, "b k p"]:
        """Return cubes as pictures show them, in [0, 1]."""
        return to_unit(cubes)

    def statistics(
        self, cubes: Float[Array, "b k p"], channels: int
    ) -> tuple[Float[Array, "b k 1 c"], Float[Array, "b k 1 c"]]:
        """Return mean and deviation of each scaled cube: for each channel, or (`joint`) one for all of them."""
        split = _split(cubes, 1 if self.joint else channels)
        mean = split.mean(axis=2, keepdims=True)
        variance = split.var(axis=2, keepdims=True, ddof=1)
        deviation = jnp.sqrt(variance + EPSILON) if self.joint else jnp.sqrt(variance) + EPSILON
        shape = (*mean.shape[:3], channels)
        return jnp.broadcast_to(mean, shape), jnp.broadcast_to(deviation, shape)

    def render(
        self, prediction: Float[Array, "b k p"], mean: Float[Array, "b k 1 c"], deviation: Float[Array, "b k 1 c"]
    ) -> Float[Array, "b k p"]:
        """Return predictions as pixels in [0, 1], given each cube's statistics (raw targets need none)."""
        split = _split(prediction, mean.shape[-1])
        if self.normalize:
            split = split * deviation + mean
        split = split * jnp.asarray(self.deviation) + jnp.asarray(self.mean)
        return jnp.clip(split.reshape(prediction.shape), 0.0, 1.0)


@register("target", smoke=lambda given: {"frames": given["frames"] and 4})  # of the 8 of a tiny model
def pixels(
    normalize: bool = True,
    mean: float | Sequence[float] = 0.0,
    deviation: float | Sequence[float] = 1.0,
    joint: bool = False,
    frames: int | None = None,
    first: bool = False,
) -> Pixels:
    """Predict the pixels of the decoded cubes in [0, 1], normalised cube by cube or raw.

    Args:
      normalize: subtract each cube's mean and divide by its deviation (unbiased). Predicting zero then costs about 1.
      mean, deviation: those of the dataset, for all channels or for each, which scale the pixels first (MAE-ST: 0.45
        and 0.225; MAE: those of ImageNet).
      joint: one mean and deviation for all channels of a cube, sqrt(variance + 1e-6), as MAE and MAE-ST have it;
        otherwise each channel has its own, sqrt(variance) + 1e-6, as in VideoMAE.
      frames: predict this many frames of a clip, evenly spaced from the first to the last and rounded down (MAE-ST: 8
        of 16, which are 0, 2, …, 12, 15); None predicts all of them.
      first: predict the first frame of each cube alone (Hiera: 0, 2, …, 14).

    Raises:
      ValueError: if a deviation is not above 0, `frames` is below 2, or both `frames` and `first` are given.

    Source: the official `engine_for_pretraining.py` of VideoMAE and VideoMAE V2; the papers of MAE and MAE-ST.
    """
    means, deviations = (
        tuple(float(value) for value in (values if isinstance(values, Sequence) else [values]))
        for values in (mean, deviation)
    )
    if not means or not deviations or min(deviations) <= 0:
        raise ValueError(f"deviation must be above 0, one number or one for each channel; got {deviation}")
    if frames is not None and frames < 2:
        raise ValueError(f"frames must be at least 2 (the first and the last of a clip), got {frames}")
    if frames is not None and first:
        raise ValueError("give frames= or first=True, not both")
    return Pixels(normalize, means, deviations, joint, frames, first)


def _split(cubes: Float[Array, "b k p"], channels: int) -> Float[Array, "b k q c"]:
    return cubes.reshape(*cubes.shape[:2], -1, channels)


@typed
def to_unit(cubes: Shaped[Array | np.ndarray, "b k p"]) -> Float[Array, "b k p"]:
    """Return uint8 pixels as float32 in [0, 1]."""
    return jnp.asarray(cubes, jnp.float32) / 255.0
