"""Frozen encoders whose features another network learns: what they see of a clip, and what is taken from them.

A teacher of images (a model of one frame) sees the first frame of each of the student's tubelets by itself; a teacher
of video sees the student's clip. Both have the student's grid of tokens. A teacher whose patch differs sees frames of
another size, so that the grid is the same.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.methods.guides import Guide
from vmae_jax.models.classifier import everything
from vmae_jax.models.layers import LayerNorm, Qkv
from vmae_jax.models.rotary import rotated, rotation
from vmae_jax.models.variants import Model
from vmae_jax.patches import patchify
from vmae_jax.resampling import cubic, matrix
from vmae_jax.scopes import tower
from vmae_jax.targets.features import STREAM
from vmae_jax.types import Batch, Params

__all__ = ["Seen", "attention", "check", "guide", "initial", "pictures", "seen"]


class Seen(NamedTuple):
    """What a teacher makes of a batch of clips, whose tokens are in the student's order.

    Attributes:
      levels: the outputs of its last blocks, without a norm, [l b n d].
      classes: the class token of each picture or clip after the final norm, [b t d]; None where the teacher has none.
      attention: what each token receives in the last block, [b n]; None where it was not asked for.
    """

    levels: Float[Array, "l b n d"]
    classes: Float[Array, "b t d"] | None
    attention: Float[Array, "b n"] | None


def check(name: str, teacher: Model, student: Model) -> None:
    """Check that a teacher has the student's tokens.

    Args:
      name: of the argument.
      teacher: the model.
      student: the model.

    Raises:
      ValueError: if it sees other clips, its grid is another, or its output is that of several levels.
    """
    if teacher.encoder.levels:
        raise ValueError(f"{name} returns the outputs of several levels (V-JEPA 2.1), which have no common norm")
    if _of_images(teacher):
        if (teacher.grid.h, teacher.grid.w, teacher.channels) != (student.grid.h, student.grid.w, student.channels):
            raise ValueError(
                f"{name} sees frames as {teacher.grid.h}x{teacher.grid.w} tokens of {teacher.channels} channels, the "
                f"student as {student.grid.h}x{student.grid.w} of {student.channels}: set resolution= of the teacher "
                "so that its patches are as many"
            )
    elif (teacher.grid, teacher.video_shape) != (student.grid, student.video_shape):
        raise ValueError(
            f"{name} and student see the same clips as the same tokens; the teacher has {teacher.grid} tokens of "
            f"clips {teacher.video_shape}, the student {student.grid} of {student.video_shape}"
        )


def initial(teacher: Model, key: Array) -> Params:
    """Return initial parameters of a teacher's encoder, which `init_from` replaces."""
    cubes = jnp.zeros((1, teacher.grid.size, teacher.cube), jnp.float32)
    return teacher.encoder.init(key, cubes, everything(*cubes.shape[:2]))["params"]


def seen(teacher: Model, weights: Params, batch: Batch, student: Model, *, levels: int, attended: bool = False) -> Seen:
    """Run a teacher on the whole of each clip. No gradient flows from the result.

    Args:
      teacher: of images or of the student's clips.
      weights: of its encoder.
      batch: of the student's clips.
      student: the model, for what a token is.
      levels: how many of the last blocks' outputs to take.
      attended: whether to compute the attention; the teacher has at least two blocks then.
    """
    depth, prefix = teacher.encoder.blocks["depth"], teacher.encoder.prefix
    kept = max(levels, 2 if attended else 1)
    encoder: Any = teacher.encoder.clone(levels=(), collect=tuple(range(depth - kept, depth)))
    weights = jax.lax.stop_gradient(weights)
    with tower("teacher"):
        cubes = teacher.normalize(patchify(_clips(teacher, student, batch["video"]), teacher.patch))
        last, outputs = encoder.apply({"params": weights}, cubes, everything(*cubes.shape[:2]))
        received = attention(teacher, weights, outputs[-2]) if attended else None
    b, n = batch["video"].shape[0], student.grid.size
    tokens = outputs[-levels:, :, prefix:].reshape(levels, b, n, -1)
    found = Seen(
        tokens,
        last[:, 0].reshape(b, -1, last.shape[-1]) if prefix else None,
        None if received is None else received.reshape(b, n),
    )
    return jax.lax.stop_gradient(found)


def guide(teacher: Model, student: Model) -> Guide:
    """Return a guide that adds the teacher's tokens of whole clips, after its final norm, for `targets.features`.

    Args:
      teacher: of images or of the student's clips.
      student: the model, for what a token is.
    """

    def annotate(weights: Params, batch: Batch) -> dict[str, Array]:
        tokens = seen(teacher, weights, batch, student, levels=1).levels[0]
        norm = LayerNorm(teacher.encoder.dtype, teacher.encoder.style.epsilon)
        return {STREAM: jnp.asarray(norm.apply({"params": weights["norm"]}, tokens))}

    return Guide(lambda key, batch: initial(teacher, key), annotate, gives=(STREAM,))


def attention(teacher: Model, weights: Params, tokens: Float[Array, "b n d"]) -> Float[Array, "b m"]:
    """Return the attention that each token of a clip or picture receives in the last block, averaged over heads.

    It is that of the class token, or without one, the mean over all tokens.

    Args:
      teacher: the model.
      weights: of its encoder.
      tokens: those that enter the last block, its prefix among them.
    """
    encoder = teacher.encoder
    options, heads = encoder.blocks, encoder.blocks["heads"]
    last = jax.tree.map(lambda leaf: leaf[-1], weights["blocks"])
    normed = LayerNorm(encoder.dtype, encoder.style.epsilon).apply({"params": last["norm1"]}, tokens)
    projection: Any = Qkv(heads, options["initial"], options["biases"], encoder.dtype)
    query, key, _ = projection.apply({"params": last["attention"]["qkv"]}, normed)
    places = everything(tokens.shape[0], teacher.grid.size).visible
    about = {"width": encoder.width, "heads": heads, "prefix": encoder.prefix, "dtype": encoder.dtype}
    turn = rotation(encoder.positions, teacher.grid, places, **about)
    if turn is not None:
        query, key = rotated(query, turn), rotated(key, turn)
    query = query[:, :1] if encoder.prefix else query

    def head(pair: tuple[Array, Array]) -> Array:
        scores = jnp.einsum("bqc,bkc->bqk", *pair, preferred_element_type=jnp.float32)
        return jax.nn.softmax(scores * pair[0].shape[-1] ** -0.5, axis=-1).mean(axis=1)

    # One head at a time: for a teacher without a class token the weights are as many as the pairs of tokens.
    split = [jnp.moveaxis(one.reshape(*one.shape[:2], heads, -1), 2, 0) for one in (query, key)]
    return jax.lax.map(head, (split[0], split[1])).mean(axis=0)[:, encoder.prefix :]


def _of_images(model: Model) -> bool:
    return model.video_shape[0] == 1


def _clips(teacher: Model, student: Model, video: Array) -> Array:
    """The clips as a teacher sees them, [b t h w c]; one frame each for a teacher of images."""
    if not _of_images(teacher):
        return jnp.asarray(video)
    frames = jnp.asarray(video)[:, :: student.patch.t]
    return pictures(teacher, frames.reshape(-1, 1, *frames.shape[2:]))


def pictures(teacher: Model, frames: Array) -> Array:
    """Return frames [b 1 h w c] at the size of a teacher of images, interpolated (cubic) where theirs differs.

    The products are in the teacher's dtype, to which its embedding rounds the pixels next.
    """
    h, w = frames.shape[2:4]
    _, height, width, _ = teacher.video_shape
    if (h, w) == (height, width):
        return frames
    dtype = teacher.encoder.dtype
    rows, columns = (jnp.asarray(matrix(*sides, cubic), dtype) for sides in ((h, height), (w, width)))
    tall = jnp.einsum("yh,bthwc->btywc", rows, frames.astype(dtype), precision="highest")
    return jnp.einsum("xw,btywc->btyxc", columns, tall, precision="highest", preferred_element_type=jnp.float32)
