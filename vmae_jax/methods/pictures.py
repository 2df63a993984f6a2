"""Reconstructions as pictures, with and without the statistics that only the truth has."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from vmae_jax.patches import Patch, gather, patchify, unpatchify
from vmae_jax.targets.pixels import Pixels, to_unit
from vmae_jax.types import Grid, MaskPlan, Pictures

__all__ = ["reconstruction"]

GREY = 0.5  # what a hidden cube is drawn in


def reconstruction(
    video: UInt8[Array, "b t h w c"],
    masks: MaskPlan,
    prediction: Float[Array, "b k p"],
    target: Pixels,
    grid: Grid,
    patch: Patch,
) -> Pictures:
    """The original, the masked and the reconstructed video; visible cubes are drawn as they are.

    Where the target is some frames of a clip, the rows show those.

    A network trained on normalised targets predicts each cube up to its mean and deviation. The
    usual picture borrows both from the truth, which flatters the model; it is marked as such, and
    beside it stands one that estimates them from the visible cubes near by.
    """
    shown, patch = target.shown(jnp.asarray(video), patch)
    channels, cubes = shown.shape[-1], to_unit(patchify(shown, patch))
    hidden = jnp.full_like(cubes, GREY)
    seen = _put(hidden, masks.visible, gather(cubes, masks.visible))
    scaled = target.scaled(patchify(shown, patch), channels)
    rows, borrowed = {"original": cubes, "masked": seen}, []
    if target.normalize:
        truth = target.statistics(gather(scaled, masks.decode), channels)
        name = "reconstructed, true mean and std"
        rows[name] = _put(seen, masks.decode, target.render(prediction, *truth))
        borrowed.append(name)
        name = "reconstructed, mean and std from visible cubes"
    else:
        name = "reconstructed"
    guess = _spread(masks, grid, target.statistics(gather(scaled, masks.visible), channels))
    rows[name] = _put(seen, masks.decode, target.render(prediction, *guess))
    videos = {name: jnp.round(unpatchify(row, grid, patch) * 255.0).astype(jnp.uint8) for name, row in rows.items()}
    return Pictures.of(videos, tuple(borrowed))


def _put(cubes: Array, index: Int[Array, "b k"], values: Array) -> Array:
    return jax.vmap(lambda row, at, new: row.at[at].set(new))(cubes, index, values)


def _spread(masks: MaskPlan, grid: Grid, visible: tuple[Array, Array]) -> tuple[Array, Array]:
    """Mean and deviation at the decoded places, smoothed over from those of the visible cubes.

    Each visible cube counts by exp(-d²/2) of its distance d in tokens; nothing of the truth at
    hidden places is used.
    """
    places = np.stack(np.unravel_index(np.arange(grid.size), (grid.t, grid.h, grid.w)), axis=1).astype(np.float32)
    places = jnp.asarray(places)
    difference = places[masks.decode][:, :, None] - places[masks.visible][:, None]
    distance = jnp.square(difference).sum(axis=-1)  # [b k v]
    weight = jnp.exp(-0.5 * (distance - distance.min(axis=-1, keepdims=True)))
    weight = weight / weight.sum(axis=-1, keepdims=True)
    mean, deviation = (jnp.einsum("bkv,bvc->bkc", weight, one[:, :, 0])[:, :, None] for one in visible)
    return mean, deviation
