"""Random changes of colours on the device, the same for all frames of a clip."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from vmae_jax.registry import register
from vmae_jax.types import stream, typed

__all__ = ["ByView", "Colors", "by_view", "jitter"]

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # luma of red, green and blue
_TO_YIQ = np.array([_GREY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float32)
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
_WIDEST = 32  # pixels; every pixel of a blur's reach is an operation of the compiled program
_BRIGHT = 128 / 255  # from which value on pixels are inverted


@dataclasses.dataclass(frozen=True)
class Colors:
    """See `jitter`."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    probability: float
    grey: float
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarise: float = 0.0

    @typed
    def __call__(self, video: Float[Array, "b t h w c"], keys: Key[Array, "b"]) -> Float[Array, "b t h w c"]:
        """Change the colours of clips in [0, 1].

        Args:
          keys: one key per clip.

        Raises:
          ValueError: if the clips do not have three channels.
        """
        if video.shape[-1] != 3:
            raise ValueError(
                f"augment.colors changes red, green and blue, and the clips have {video.shape[-1]} channels"
            )
        return jax.vmap(self._change)(video, stream(keys, "colors"))

    def _change(self, video: Array, key: Array) -> Array:
        def factor(name: str, most: float) -> Array:
            return jax.random.uniform(stream(key, name), minval=1 - most, maxval=1 + most)

        changed = jnp.clip(video * factor("brightness", self.brightness), 0.0, 1.0)
        mean = (changed @ _GREY).mean()
        changed = jnp.clip(mean + (changed - mean) * factor("contrast", self.contrast), 0.0, 1.0)
        turn = 2 * jnp.pi * jax.random.uniform(stream(key, "hue"), minval=-self.hue, maxval=self.hue)
        changed = jnp.clip(changed @ _chroma(factor("saturation", self.saturation), turn).T, 0.0, 1.0)
        video = jnp.where(jax.random.uniform(stream(key, "whether")) < self.probability, changed, video)
        flat = jnp.broadcast_to((video @ _GREY)[..., None], video.shape)
        video = jnp.where(jax.random.uniform(stream(key, "grey")) < self.grey, flat, video)
        if self.blur:
            sigma = jax.random.uniform(stream(key, "sigma"), minval=self.sigma[0], maxval=self.sigma[1])
            hit = jax.random.uniform(stream(key, "blur")) < self.blur
            video = jnp.where(hit, _blurred(video, sigma, math.ceil(4 * self.sigma[1])), video)
        if self.solarise:
            hit = jax.random.uniform(stream(key, "solarise")) < self.solarise
            video = jnp.where(hit & (video >= _BRIGHT), 1.0 - video, video)
        return video


@dataclasses.dataclass(frozen=True)
class ByView:
    """See `by_view`."""

    changes: tuple[Colors, ...]

    @property
    def views(self) -> int:
        """The number of views of a video."""
        return len(self.changes)

    @typed
    def __call__(self, video: Float[Array, "b t h w c"], keys: Key[Array, "b"]) -> Float[Array, "b t h w c"]:
        """Change the colours of clips in [0, 1], each as its view is changed.

        Args:
          keys: one key per clip.

        Raises:
          ValueError: if the rows are no whole number of videos.
        """
        if video.shape[0] % self.views:
            raise ValueError(f"{video.shape[0]} clips are no whole number of videos of {self.views} views")
        changed = [one(video[at :: self.views], keys[at :: self.views]) for at, one in enumerate(self.changes)]
        return jnp.stack(changed, axis=1).reshape(video.shape)


def _blurred(video: Float[Array, "t h w c"], sigma: Array, reach: int) -> Float[Array, "t h w c"]:
    """Return frames blurred by a Gaussian that is cut off `reach` pixels away, over the pixels that there are."""
    weights = jnp.exp(-jnp.square(jnp.arange(-reach, reach + 1)) / (2 * jnp.square(sigma)))

    def along(x: Array, axis: int) -> Array:
        padded = jnp.pad(x, [(reach, reach) if one == axis else (0, 0) for one in range(x.ndim)])
        shifted = [jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(2 * reach + 1)]
        return sum((weight * one for weight, one in zip(weights, shifted, strict=True)), jnp.zeros_like(x))

    down, across = (along(jnp.ones(length), 0) for length in video.shape[1:3])
    return along(along(video, 1), 2) / (down[:, None, None] * across[:, None])


def _chroma(saturation: Array, turn: Array) -> Array:
    """The matrix [3 3] that scales colours away from grey and turns them around it, and keeps their luma."""
    cos, sin = saturation * jnp.cos(turn), saturation * jnp.sin(turn)
    inner = jnp.eye(3).at[1:, 1:].set(jnp.array([[cos, -sin], [sin, cos]]))
    return jnp.asarray(_FROM_YIQ) @ inner @ jnp.asarray(_TO_YIQ)


@register("colors")
def jitter(
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    probability: float = 0.8,
    grey: float = 0.2,
    blur: float = 0.0,
    sigma: Sequence[float] = (0.1, 2.0),
    solarise: float = 0.0,
) -> Colors:
    """Colour jitter, then grey, blurred and solarised clips, with one draw for each clip.

    As torchvision's `ColorJitter` and `RandomGrayscale`, but always in this order, and with the hue turned in YIQ; blur
    and solarisation are those of MoCo v3 and BYOL.

    Args:
      brightness, contrast, saturation: factors are drawn from 1 minus this to 1 plus this.
      hue: the largest turn, as a share of a full one.
      probability: that a clip is jittered at all.
      grey: the probability that a clip loses its colours.
      blur: the probability that it is blurred.
      sigma: the range of the blur's standard deviation in pixels.
      solarise: the probability that its bright pixels are inverted, those of at least 128 of 255.

    Raises:
      ValueError: if a number is out of range.
    """
    for name, value, most in (
        *(("brightness", brightness, 1), ("contrast", contrast, 1), ("saturation", saturation, 1)),
        *(("hue", hue, 0.5), ("probability", probability, 1), ("grey", grey, 1)),
        *(("blur", blur, 1), ("solarise", solarise, 1)),
    ):
        if not 0 <= value <= most:
            raise ValueError(f"{name} must be in [0, {most}], got {value}")
    if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1] <= _WIDEST:
        raise ValueError(f"sigma={list(sigma)}: two ascending numbers above 0 and at most {_WIDEST}")
    return Colors(brightness, contrast, saturation, hue, probability, grey, blur, (sigma[0], sigma[1]), solarise)


@register("view_colors", changes="colors")
def by_view(changes: Sequence[Colors]) -> ByView:
    """Change the colours of the views of a video in different ways (BYOL, ViC-MAE).

    Args:
      changes: those of each view, in the order of its rows.

    Raises:
      ValueError: if there are fewer than two.
    """
    if len(changes) < 2:
        raise ValueError(f"changes has {len(changes)} entries: one for each view of a video, at least 2")
    return ByView(tuple(changes))
