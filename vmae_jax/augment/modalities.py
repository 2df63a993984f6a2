"""Mixup of clips with several modalities: one share for all of them, or one for each (MBT, AV-MAE)."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from vmae_jax.augment.mixing import group_size
from vmae_jax.registry import register
from vmae_jax.types import stream

__all__ = ["ModalityMixup", "mixup"]


@dataclasses.dataclass(frozen=True)
class ModalityMixup:
    """See `mixup`."""

    alpha: float
    separate: bool
    group: int | None

    def __call__(
        self,
        cubes: Mapping[str, Float[Array, "b n p"]],
        there: Mapping[str, Bool[Array, "b"]],
        target: Float[Array, "b k"],
        keys: Key[Array, "b"],
        valid: Bool[Array, "b"],
    ) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
        """Blend each clip with its counterpart in the reversed group.

        Args:
          cubes: the normalised cubes of each modality.
          there: which rows have the modality.
          target: of the clips.
          keys: one an example; a group uses that of its first one.
          valid: which rows are clips.

        Returns:
          The cubes, the targets and which rows were blended, each by modality.

        Raises:
          ConfigError: if the batch does not divide into groups.
        """
        size = self.size(target.shape[0])
        turned = lambda a: a.reshape(-1, size, *a.shape[1:])[:, ::-1].reshape(a.shape)  # noqa: E731
        both = valid & turned(valid)
        alike = both
        for one in there.values():  # one target for all modalities, so all of them are blended, or none
            alike = alike & (one == turned(one))
        mixed, targets, blended = {}, {}, {}
        for name, own in cubes.items():
            together = both & there[name] & turned(there[name]) if self.separate else alike
            share = self._shares(keys[::size], name if self.separate else "all", size)
            share = jnp.where(together, share, 1.0)
            mixed[name] = _between(share, own, turned(own))
            targets[name] = _between(share, target, turned(target))
            blended[name] = together
        return mixed, targets, blended

    def size(self, clips: int) -> int:
        """Return the number of clips in a group; raise ConfigError if the batch does not divide into groups."""
        return group_size(clips, self.group, "augment.modalities.mixup")

    def _shares(self, keys: Array, name: str, size: int) -> Array:
        draw = lambda key: jax.random.beta(key, self.alpha, self.alpha)  # noqa: E731
        return jnp.repeat(jax.vmap(draw)(stream(stream(keys, "mix"), name)), size)


def _between(share: Array, one: Array, other: Array) -> Array:
    """Return rows blended by their shares, bit for bit the first where its share is 1."""
    share = share.reshape(-1, *[1] * (one.ndim - 1))
    return jnp.where(share == 1.0, one, share * one + (1.0 - share) * other)


@register("modality_mixing", smoke={"group": None})  # a batch may be smaller than the recipe's group
def mixup(alpha: float = 0.5, separate: bool = False, group: int | None = None) -> ModalityMixup:
    """Mixup of clips with several modalities (Nagrani et al. 2021).

    A modality that a clip or its counterpart lacks is not blended: with `separate` it alone, otherwise none of both.

    Args:
      alpha: the parameter of the Beta distribution of the share.
      separate: draw a share for each modality, whose own targets follow, instead of one for all.
      group: the number of clips that share their draws and mix with each other, a divisor of the micro-batch's clips.
        None: the whole batch.

    Raises:
      ValueError: if a number is out of range.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be above 0, got {alpha}; leave mix out to blend nothing")
    if group is not None and (group < 2 or group % 2):
        raise ValueError(f"group must be even and at least 2, because clips mix with the reversed group; got {group}")
    return ModalityMixup(alpha, separate, group)
