"""The optical flow of a clip as a guide: a frozen network that adds it to the batch."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from vmae_jax.masking.flow_guided import BASE, EARLIER, LATER
from vmae_jax.methods.guides import Guide
from vmae_jax.models.raft import STRIDE, Raft
from vmae_jax.registry import register
from vmae_jax.targets.trajectory import NEXT
from vmae_jax.types import Batch, Params, row_keys, stream

__all__ = ["onward", "onward_flow", "outward_pairs", "raft"]

BASES = ("first", "middle", "random")


@register("guide", smoke={"iterations": 1})
def raft(iterations: int = 6, base: str = "middle", fix_backward: bool = True) -> Guide:
    """Return RAFT-small, which gives the flow between adjacent frames of a clip, outward from its base frame.

    It adds "flow_earlier" and "flow_later", [b n h w 2] float32, x and y in pixels: the flow of each frame before and
    after the base, those next to it first, to the adjacent frame on the base's side. `masking.flow_guided` moves
    a map by them. The frames are the crops that the model sees; their weights are `frozen/NAME`, which `init_from` sets
    to imported ones.

    Args:
      iterations: the corrections of the flow.
      base: "middle", the frame after the first half of a clip, "first", or "random", another one for each clip, whose
        number is added as "flow_base". Then both arrays are as long as for any base, and what a clip lacks is 0.
      fix_backward: whether frames before the base have that flow, too. Where it is False, they have the one in the
        other direction, as in MGMAE's code, so that maps move there against the motion.

    Raises:
      ValueError: if there are no iterations, or no such base; when it is used, if frames are not in colour, or their
        sides are no multiples of 8 pixels.
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations}: at least 1")
    if base not in BASES:
        raise ValueError(f"base must be one of {', '.join(map(repr, BASES))}, got {base!r}")
    network = Raft(iterations)
    if base == "random":
        return Guide(
            lambda key, batch: network.init(key),
            lambda params, batch: _from_anywhere(network, params, batch, fix_backward=fix_backward),
            gives=(EARLIER, LATER, BASE),
        )

    def annotate(params: Params, batch: Batch) -> dict[str, Array]:
        frames = _frames(batch["video"])
        middle = frames.shape[1] // 2 if base == "middle" else 0
        earlier, later = outward_pairs(frames.shape[1], middle, fix_backward=fix_backward)
        found = network.flow(params, frames, [*earlier, *later])
        return {EARLIER: found[:, : len(earlier)], LATER: found[:, len(earlier) :]}

    return Guide(lambda key, batch: network.init(key), annotate, gives=(EARLIER, LATER))


def _from_anywhere(network: Raft, params: Params, batch: Batch, *, fix_backward: bool) -> dict[str, Array]:
    """What `raft` adds with a random base for each clip: of two neighbours, only one direction is computed."""
    frames = _frames(batch["video"])
    count = frames.shape[1] - 1
    keys = stream(row_keys(batch["seed"]), "flow_base")
    base = jax.vmap(lambda key: jax.random.randint(key, (), 0, count + 1))(keys)[:, None]
    left = jnp.arange(count)[None]
    right = left + 1
    target = jnp.where((left < base) & fix_backward, left, right)  # without the correction, never the left one
    found = network.flow(params, frames, jnp.stack([target, left + right - target], axis=-1))

    def sorted_by(places: Array) -> Array:
        there = (places >= 0) & (places < count)
        taken = jax.vmap(lambda one, place: one[place])(found, jnp.clip(places, 0, count - 1))
        return jnp.where(there[:, :, None, None, None], taken, 0.0)

    return {EARLIER: sorted_by(base - 1 - left), LATER: sorted_by(base + left), BASE: base[:, 0]}


@register("guide", smoke={"iterations": 1})
def onward(iterations: int = 6) -> Guide:
    """Return RAFT-small, which gives the flow of each frame of a clip, but the last, to the one after it.

    It adds "flow_next", [b t-1 h w 2] float32, x and y in pixels, by which `targets.trajectory` moves points. Frames,
    weights and errors are those of `raft`.

    Args:
      iterations: the corrections of the flow.

    Raises:
      ValueError: if there are no iterations.
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations}: at least 1")
    network = Raft(iterations)

    def annotate(params: Params, batch: Batch) -> dict[str, Array]:
        return {NEXT: onward_flow(network, params, batch["video"])}

    return Guide(lambda key, batch: network.init(key), annotate, gives=(NEXT,))


def onward_flow(
    network: Raft, params: Params, video: Shaped[Array | np.ndarray, "b t h w 3"]
) -> Float[Array, "b p h w 2"]:
    """Return the flow of each frame but the last to the one after it, p = t - 1, x and y in pixels.

    Raises:
      ValueError: if frames are not in colour, or their sides are no multiples of 8 pixels.
    """
    frames = _frames(video)
    return network.flow(params, frames, [(number, number + 1) for number in range(frames.shape[1] - 1)])


def _frames(video: Array | np.ndarray) -> Array:
    """The frames as RAFT takes them, from -1 to 1."""
    video = jnp.asarray(video)
    if video.shape[-1] != 3 or video.shape[2] % STRIDE or video.shape[3] % STRIDE:
        raise ValueError(
            f"RAFT takes frames in colour whose sides are multiples of {STRIDE} pixels, the clips have "
            f"{'x'.join(map(str, video.shape[2:]))} (h x w x c)"
        )
    return video.astype(jnp.float32) / 127.5 - 1.0


def outward_pairs(frames: int, base: int, *, fix_backward: bool) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return pairs of adjacent frames, from the first of which the flow leads to the second, before and after the base.

    Args:
      frames: of a clip.
      base: the number of the base frame.
      fix_backward: as in `raft`.
    """
    earlier = [(target, target + 1) for target in reversed(range(base))]
    if not fix_backward:
        earlier = [(second, first) for first, second in earlier]
    return earlier, [(target, target - 1) for target in range(base + 1, frames)]
