"""Mixup and CutMix on the device: clips of a batch and their targets are blended.

Zhang et al. 2018 and Yun et al. 2019, as in the official fine-tuning (timm's `Mixup` in "batch"
mode, for video): one draw for a whole group of clips, each clip mixed with its counterpart in the reversed
group, one box for all frames. A method that mixes declares the group as `Method.group`, so that micro-batches
contain whole groups.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from vmae_jax.registry import register
from vmae_jax.spec import ConfigError
from vmae_jax.types import stream, typed

__all__ = ["Mixing", "group_size", "mixup_cutmix"]


@dataclasses.dataclass(frozen=True)
class Mixing:
    """See `mixup_cutmix`."""

    mixup: float
    cutmix: float
    switch: float
    probability: float
    group: int | None

    @typed
    def __call__(
        self,
        video: Float[Array, "b t h w c"],
        target: Float[Array, "b k"],
        keys: Key[Array, "b"],
        valid: Bool[Array, "b"] | None = None,
    ) -> tuple[Float[Array, "b t h w c"], Float[Array, "b k"]]:
        """Mix normalised clips and their targets within each group.

        Args:
          keys: one key per example; a group uses that of its first one.
          valid: a clip whose partner is False here stays unchanged; None: all are valid.

        Raises:
          ConfigError: if the batch does not divide into groups.
        """
        b = video.shape[0]
        size = self.size(b)
        valid = jnp.ones(b, bool) if valid is None else valid
        grouped = lambda a: a.reshape(b // size, size, *a.shape[1:])  # noqa: E731
        mixed, targets = jax.vmap(self._mix)(grouped(video), grouped(target), keys[::size], grouped(valid))
        return mixed.reshape(video.shape), targets.reshape(target.shape)

    def size(self, clips: int) -> int:
        """Return the number of clips in a group; raise ConfigError as `group_size` does."""
        return group_size(clips, self.group, "augment.mixing.mixup_cutmix")

    def _mix(self, video: Array, target: Array, key: Array, valid: Array) -> tuple[Array, Array]:
        share, box = self._draw(stream(key, "mix"), *video.shape[2:4])
        other, partner = video[::-1], valid[::-1]
        # Mixup blends everywhere; CutMix replaces the inside of its `box`, which is a mask.
        inside = box[None, None, :, :, None]
        mixed = jnp.where(jnp.isnan(inside), share * video + (1.0 - share) * other, 0.0)
        cut = jnp.where(inside > 0, other, video)
        alone = ~partner.reshape(-1, 1)
        video = jnp.where(alone[..., None, None, None], video, jnp.where(jnp.isnan(inside), mixed, cut))
        return video, jnp.where(alone, target, share * target + (1.0 - share) * target[::-1])

    def _draw(self, key: Array, height: int, width: int) -> tuple[Array, Array]:
        """Return the share of the clip itself, and the box [h w]: NaN for mixup, 1 where CutMix replaces pixels."""
        draw = lambda name: jax.random.uniform(stream(key, name))  # noqa: E731
        cut = (draw("which") < self.switch) if self.mixup and self.cutmix else jnp.bool_(self.cutmix > 0)
        blended, kept = (
            jax.random.beta(stream(key, name), alpha or 1.0, alpha or 1.0)
            for name, alpha in (("mixup", self.mixup), ("cutmix", self.cutmix))
        )
        off = draw("whether") >= self.probability
        side = jnp.sqrt(1.0 - kept)
        mask = _span(stream(key, "down"), height, side)[:, None] & _span(stream(key, "across"), width, side)[None]
        # The share of the clip that remains, after the box is cut off at the border.
        share = jnp.where(cut, 1.0 - mask.mean(), blended)
        box = jnp.where(cut, mask.astype(jnp.float32), jnp.nan)
        return jnp.where(off, 1.0, share), jnp.where(off, 0.0, box)


def group_size(clips: int, group: int | None, name: str) -> int:
    """Return the number of clips that mix with each other: all of the batch, if it has fewer than `group`.

    Args:
      clips: of a micro-batch.
      group: the number of clips in a group; None for all.
      name: of the component, for errors.

    Raises:
      ConfigError: if the batch does not divide into groups, or a clip has no partner.
    """
    size = min(group or clips, clips)
    if clips % size:
        raise ConfigError(
            f"a (micro-)batch of {clips} clips does not divide into mixing groups of {size}: set group of "
            f"{name} to an even divisor of it, or data.global_batch"
        )
    if size % 2:
        raise ConfigError(
            f"a (micro-)batch of {clips} clips leaves one without a partner to mix with: give data.global_batch "
            f"and train.accumulate an even number of clips a micro-batch"
        )
    return size


def _span(key: Array, length: int, share: Array) -> Array:
    """Return which of `length` positions are within half of int(length * share) of a random centre."""
    half = jnp.floor(length * share).astype(jnp.int32) // 2
    centre = jax.random.randint(key, (), 0, length)
    place = jnp.arange(length)
    return (place >= centre - half) & (place < centre + half)


@register("mixing", smoke={"group": None})  # a batch may be smaller than the recipe's group
def mixup_cutmix(
    mixup: float = 0.8,
    cutmix: float = 1.0,
    switch: float = 0.5,
    probability: float = 1.0,
    group: int | None = None,
) -> Mixing:
    """Mixup or CutMix of every group of clips.

    Args:
      mixup, cutmix: the parameter of the Beta distribution of the share; 0 switches either off.
      switch: the probability of CutMix instead of mixup, if both are on.
      probability: the probability that a group is mixed at all.
      group: the number of clips that share one draw and mix with each other, a divisor of the micro-batch's
        clips. The official code has one group per GPU, its batch times num_sample. None: the whole batch, as
        for a batch of fewer clips.

    Raises:
      ValueError: if a number is outside its range, or neither is on.
    """
    for name, value in (("switch", switch), ("probability", probability)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    if mixup < 0 or cutmix < 0 or not mixup + cutmix:
        raise ValueError(f"mixup and cutmix must be at least 0, one of them above; got mixup={mixup}, cutmix={cutmix}")
    if group is not None and (group < 2 or group % 2):
        raise ValueError(f"group must be even and at least 2, because clips mix with the reversed group; got {group}")
    return Mixing(mixup, cutmix, switch, probability, group)
