"""Labels carried from frame to frame by the similarity of features, in bounded memory and with static shapes."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vmae_jax.vectors import unit

__all__ = ["Memory", "begin", "down", "step", "up"]

_BLOCK = 128  # tokens of a frame that are compared at once


class Memory(NamedTuple):
    """The frames that labels come from: the first one, then a ring of the newest.

    Attributes:
      features: of unit length, [1+ring y x d].
      labels: shares of each label, [1+ring y x k].
      next: the place of the ring that the next frame takes.
    """

    features: Float[Array, "c y x d"]
    labels: Float[Array, "c y x k"]
    next: Int[Array, ""]


def begin(features: Float[Array, "y x d"], labels: Float[Array, "y x k"], context: int) -> Memory:
    """Return the memory after the first frame, which fills the whole ring (as in the public evaluations).

    Args:
      features: of the frame.
      labels: its labels.
      context: frames of the ring.
    """
    repeated = lambda one: jnp.broadcast_to(one, (1 + context, *one.shape))  # noqa: E731
    return Memory(repeated(unit(features)), repeated(labels), jnp.int32(0))


def step(
    memory: Memory, features: Float[Array, "y x d"], *, temperature: float, topk: int, radius: float
) -> tuple[Float[Array, "y x k"], Memory]:
    """Return the labels of the next frame, and the memory with it.

    Each token takes the labels of the `topk` most similar ones among all tokens of the first frame and those of the
    ring's frames within `radius`, weighted by the softmax of their cosine similarities over the temperature.

    Args:
      memory: of the frames before.
      features: of the frame.
      temperature: of the softmax.
      topk: tokens that labels come from.
      radius: tokens closer than this, in tokens.
    """
    frames, y, x, width = memory.features.shape
    query = unit(features).reshape(y * x, width)
    known = memory.features.reshape(frames, y * x, width)
    labels = memory.labels.reshape(frames * y * x, -1)
    places = np.stack(np.unravel_index(np.arange(y * x), (y, x)), axis=1).astype(np.float32)

    def block(rows: Array) -> Array:
        similar = jnp.einsum("qd,cnd->qcn", query[rows], known, precision="highest")
        apart = jnp.square(jnp.asarray(places)[rows][:, None] - places[None]).sum(axis=-1)
        reachable = (apart < radius**2)[:, None] | (jnp.arange(frames) == 0)[None, :, None]
        value, source = jax.lax.top_k(jnp.where(reachable, similar, -jnp.inf).reshape(len(rows), -1), topk)
        return jnp.einsum("qs,qsk->qk", jax.nn.softmax(value / temperature, axis=1), labels[source])

    blocks = -(-y * x // _BLOCK)
    rows = np.minimum(np.arange(blocks * _BLOCK), y * x - 1).reshape(blocks, _BLOCK)
    found = jax.lax.map(block, jnp.asarray(rows)).reshape(blocks * _BLOCK, -1)[: y * x].reshape(y, x, -1)
    place = 1 + memory.next
    kept = Memory(
        memory.features.at[place].set(unit(features)),
        memory.labels.at[place].set(found),
        (memory.next + 1) % (frames - 1),
    )
    return found, kept


@functools.partial(jax.jit, static_argnames=("count", "grid"))
def down(labels: Int[Array, "h w"], *, count: int, grid: tuple[int, int]) -> Float[Array, "y x k"]:
    """Return the shares of each label at the tokens, interpolated linearly from the pixels."""
    return jax.image.resize(jax.nn.one_hot(labels, count), (*grid, count), "linear", antialias=False)


@functools.partial(jax.jit, static_argnames=("size",))
def up(labels: Float[Array, "y x k"], *, size: tuple[int, int]) -> Int[Array, "h w"]:
    """Return the label of each pixel, the largest share after linear interpolation."""
    return jax.image.resize(labels, (*size, labels.shape[-1]), "linear", antialias=False).argmax(-1).astype(jnp.uint8)
