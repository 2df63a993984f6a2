"""Vectors of two modalities in one space, such as of videos and of their sounds: what can be retrieved by the other."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vmae_jax.methods.parts.core import Part, Seen, pooled
from vmae_jax.types import Batch, Params

__all__ = ["Common", "of_part"]


class Common(NamedTuple):
    """Of `Method.common`.

    Attributes:
      modalities: the names of both.
      features: (params, batch) -> the features of each clip, of one modality and of the other, [b d] and [b e], and
        whether a clip has both, bool [b].
      project: (params, features, features, valid) -> both as vectors of length 1 in the common space, of all clips
        that are compared: a head may normalise over these.
    """

    modalities: tuple[str, str]
    features: Callable[[Params, Batch], tuple[Float[Array, "b d"], Float[Array, "b e"], Bool[Array, "b"]]]
    project: Callable[[Params, Array, Array, Array], tuple[Float[Array, "b k"], Float[Array, "b k"]]]


def of_part(part: Part, name: str, look: Callable[..., Mapping[str, Seen]]) -> Common:
    """Return the space in which a part compares two modalities.

    Args:
      part: whose `common` is not None.
      name: of its parameters.
      look: (params, batch, *, train, whole) -> what the method makes of each modality.
    """
    assert part.common is not None
    first, second = part.common

    def features(params: Params, batch: Batch) -> tuple[Array, Array, Array]:
        seen = look(params, batch, train=False, whole=True)
        valid = jnp.asarray(seen[first].batch["valid"]) & jnp.asarray(seen[second].batch["valid"])
        return pooled(seen[first]), pooled(seen[second]), valid

    def project(params: Params, one: Array, other: Array, valid: Array) -> tuple[Array, Array]:
        own = params.get(name, {})
        return part.project(own, first, one, valid), part.project(own, second, other, valid)

    return Common((first, second), features, project)
