"""Reconstructions as pictures, with the true statistics of hidden cubes and with estimated ones."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from vmae_jax.patches import Patch, gather, patchify, unpatchify
from vmae_jax.targets.pixels import Pixels
from vmae_jax.types import Grid, MaskPlan, Pictures

__all__ = ["of_modalities", "reconstruction"]

GREY = 0.5  # the colour of hidden cubes


def reconstruction(
    video: Shaped[Array, "b t h w c"],
    masks: MaskPlan,
    prediction: Float[Array, "b k p"],
    target: Pixels,
    grid: Grid,
    patch: Patch,
    word: str = "reconstructed",
) -> Pictures:
    """Return the original, the masked and the reconstructed video, which shows visible cubes unchanged.

    If the target has only some frames of a clip, the rows show these.

    A network trained on normalised targets predicts each cube up to its mean and deviation. The
    usual picture takes both from the original, which flatters the model. It is labelled as such, and
    another row estimates them from nearby visible cubes. `word` is the name of these rows, or its beginning.
    """
    shown, patch = target.shown(jnp.asarray(video), patch)
    channels, cubes = shown.shape[-1], target.unit(patchify(shown, patch))
    hidden = jnp.full_like(cubes, GREY)
    visible = gather(cubes, masks.visible)
    if masks.valid is not None:
        visible = jnp.where(masks.valid[..., None], visible, GREY)
    seen = _put(hidden, masks.visible, visible)
    scaled = target.scaled(patchify(shown, patch), channels)
    rows, borrowed = {"original": cubes, "masked": seen}, []
    if target.normalize:
        truth = target.statistics(gather(scaled, masks.decode), channels)
        name = f"{word}, true mean and std"
        rows[name] = _put(seen, masks.decode, target.render(prediction, *truth))
        borrowed.append(name)
        name = f"{word}, mean and std from visible cubes"
    else:
        name = word
    guess = _spread(masks, grid, target.statistics(gather(scaled, masks.visible), channels))
    rows[name] = _put(seen, masks.decode, target.render(prediction, *guess))
    videos = {name: jnp.round(unpatchify(row, grid, patch) * 255.0).astype(jnp.uint8) for name, row in rows.items()}
    return Pictures.of(videos, tuple(borrowed))


def of_modalities(networks: Mapping[str, Any], seen: Mapping[str, Any], predictions: Mapping[str, Any]) -> Pictures:
    """Return the reconstructions of several modalities: rows of frames, and strips of spectrograms.

    A modality of single frames beside one of clips is shown as a still.

    Args:
      networks: the masked autoencoder of each.
      seen: what each has encoded (`methods.parts.core.Seen`).
      predictions: what the decoders predict, by modality and objective.
    """
    rows, strips, borrowed = {}, {}, []
    first = next((name for name, one in networks.items() if one.model.video_shape[2:] != (1, 1)), None)
    for name, one in networks.items():
        objective = str(one._drawable())
        target: Any = one.objectives[objective].target
        own, model = seen[name], one.model
        found = predictions[name][objective]
        made = reconstruction(own.batch["video"], own.masks, found, target, model.grid, model.patch)
        spectral = model.video_shape[2:] == (1, 1)  # [t m 1 1]: drawn with low frequencies below
        place = strips if spectral else rows
        for row, video in made.rows.items():
            word = row if place is rows and name == first else f"{name}: {row}"
            place[word] = jnp.swapaxes(video[:, :, ::-1, :, 0], 1, 2) if spectral else video
            borrowed += [word] if row in made.borrowed else []
    if not rows:  # the strips are all there is: clips of one frame
        return Pictures.of({name: strip[:, None] for name, strip in strips.items()}, tuple(borrowed))
    longest = max(video.shape[1] for video in rows.values())
    rows = {name: jnp.repeat(v, longest, axis=1) if v.shape[1] == 1 else v for name, v in rows.items()}
    made = Pictures.of(rows, tuple(borrowed))
    return dataclasses.replace(made, strips=tuple(strips.values()), strip_names=tuple(strips))


def _put(cubes: Array, index: Int[Array, "b k"], values: Array) -> Array:
    return jax.vmap(lambda row, at, new: row.at[at].set(new))(cubes, index, values)


def _spread(masks: MaskPlan, grid: Grid, visible: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return mean and deviation at the decoded positions, interpolated from those of the visible cubes.

    A visible cube at distance d (in tokens) has weight exp(-d²/2). Pixels of hidden cubes are not used.
    """
    places = np.stack(np.unravel_index(np.arange(grid.size), (grid.t, grid.h, grid.w)), axis=1).astype(np.float32)
    places = jnp.asarray(places)
    difference = places[masks.decode][:, :, None] - places[masks.visible][:, None]
    distance = jnp.square(difference).sum(axis=-1)  # [b k v]
    if masks.valid is not None:
        distance = jnp.where(masks.valid[:, None], distance, jnp.inf)
    weight = jnp.exp(-0.5 * (distance - distance.min(axis=-1, keepdims=True)))
    weight = weight / weight.sum(axis=-1, keepdims=True)
    mean, deviation = (jnp.einsum("bkv,bvc->bkc", weight, one[:, :, 0])[:, :, None] for one in visible)
    return mean, deviation
