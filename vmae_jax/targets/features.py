"""The features of a frozen teacher as targets."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vmae_jax.patches import Patch, gather
from vmae_jax.registry import register
from vmae_jax.types import Batch

__all__ = ["STREAM", "Features", "features"]

STREAM = "taught"  # the name under which a method adds a teacher's tokens to the batch, [b n d]


@dataclasses.dataclass(frozen=True)
class Features:
    """See `features`."""

    normalize: bool
    inputs: tuple[str, ...] = (STREAM,)

    def __call__(self, batch: Batch, decode: Int[Array, "b k"], patch: Patch) -> Float[Array, "b k d"]:
        """Return the targets of the tokens in `decode`."""
        del patch
        tokens = gather(jnp.asarray(batch[STREAM]), decode).astype(jnp.float32)
        if not self.normalize:
            return tokens
        centred = tokens - tokens.mean(axis=-1, keepdims=True)
        return centred / jnp.sqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + 1e-6)


@register("target")
def features(normalize: bool = True) -> Features:
    """The tokens of a frozen teacher, for methods that have one as `teacher`.

    Args:
      normalize: scale each token to a mean of 0 and a variance of 1 over its channels.
    """
    return Features(normalize)
