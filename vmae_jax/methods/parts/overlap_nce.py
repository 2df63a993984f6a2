"""Controllable augmentations (Qian et al. 2022): cells of clips are found in the whole video, by how they overlap."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vmae_jax.methods.masked import Masked
from vmae_jax.methods.parts.core import Part, Seen, there
from vmae_jax.methods.parts.projector import Projector
from vmae_jax.registry import register
from vmae_jax.types import Batch, Context, Loss, Params, Term, stream
from vmae_jax.vectors import unit

__all__ = ["OverlapNce", "overlap_nce", "overlaps", "volumes"]

_NEVER = -1e30  # the logit of a cell that is no candidate


@dataclasses.dataclass(frozen=True)
class OverlapNce(Part):
    """See `overlap_nce`."""

    modality: str
    widths: tuple[int, ...]
    cells: tuple[int, int, int]
    temperature: float
    weight: float
    place: str
    views: int
    compares: bool = True

    @property
    def inputs(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride] - it follows the stream
        return self.place, f"{self.place}_times"

    def check(self, networks: Mapping[str, Masked]) -> None:
        """Raise ValueError if there is no such modality, or its tokens do not divide into the cells."""
        there("overlap_nce", networks, self.modality, whole="cells are means of all their tokens")
        grid = networks[self.modality].model.grid
        if grid.t % self.cells[0] or grid.h % self.cells[1] or grid.w % self.cells[2]:
            raise ValueError(f"cells={list(self.cells)} must divide the {grid} tokens of a clip")

    def init(self, key: Array, networks: Mapping[str, Masked], batches: Mapping[str, Batch]) -> Params:
        """See `Part.init`: the projection of cells."""
        given = jnp.zeros((2, networks[self.modality].model.encoder.width)), jnp.ones(2, bool)
        return {"projector": Projector(self.widths).init(stream(key, "cells"), *given)["params"]}

    def rows(self, params: Params, seen: Mapping[str, Seen], target: Callable[[], Mapping[str, Seen]]) -> Any:
        """Return the mean of each cell's tokens, [b c d], and where it is in the video, [b c 3 2]."""
        del params, target
        one, (t, y, x) = seen[self.modality], self.cells
        grid, tokens = one.grid, one.tokens.astype(jnp.float32)
        b, _, d = tokens.shape
        split = tokens.reshape(b, t, grid.t // t, y, grid.h // y, x, grid.w // x, d)
        place, times = (jnp.asarray(one.batch[name], jnp.float32) for name in self.inputs)
        return {
            "cells": split.mean(axis=(2, 4, 6)).reshape(b, t * y * x, d),
            "volumes": jax.lax.stop_gradient(volumes(place, times, self.cells)),
            "valid": jnp.asarray(one.batch["valid"]),
        }

    def compare(self, params: Params, rows: Any, average: Params, context: Context) -> Loss:
        """Return the cross-entropy between how cells overlap and how alike they are."""
        del average, context
        cells, valid, views = rows["cells"], rows["valid"], self.views
        b, c, _ = cells.shape
        head = Projector(self.widths)
        found: Any = head.apply({"params": params["projector"]}, cells.reshape(b * c, -1), jnp.repeat(valid, c))
        split = lambda x: x.reshape(b // views, views, *x.shape[1:])  # noqa: E731
        found, places, valid = split(unit(found).reshape(b, c, -1)), split(rows["volumes"]), split(valid)
        total, count = jnp.float32(0), jnp.float32(0)
        for view in range(1, views):
            both = valid[:, 0] & valid[:, view]
            error, counted = _errors(
                found[:, view],
                found[:, 0],
                overlaps(places[:, view], places[:, 0]),
                both,
                valid[:, 0],
                self.temperature,
            )
            total, count = total + (error * counted).sum(), count + counted.sum()
        return Loss({"overlap_nce": Term(total, count, jnp.float32(self.weight))})


def volumes(
    place: Float[Array, "b 4"], times: Float[Array, "b f 2"], cells: tuple[int, int, int]
) -> Float[Array, "b c 3 2"]:
    """Return where cells of clips begin and end: in seconds, and in shares of the picture's height and width.

    Args:
      place, times: of each clip, as in `data.streams.place`.
      cells: into which a clip is divided, along time, height and width.
    """
    b, (t, y, x) = place.shape[0], cells
    slots = times.reshape(b, t, -1, 2)
    time = jnp.stack([slots[..., 0].min(axis=2), slots[..., 1].max(axis=2)], axis=-1)

    def along(first: Array, last: Array, count: int) -> Array:
        edges = first[:, None] + (last - first)[:, None] * np.linspace(0.0, 1.0, count + 1, dtype=np.float32)
        pair = edges[:, :-1], edges[:, 1:]
        return jnp.stack([jnp.minimum(*pair), jnp.maximum(*pair)], axis=-1)  # a mirrored clip runs to the left

    down, across = along(place[:, 1], place[:, 3], y), along(place[:, 0], place[:, 2], x)
    shape = (b, t, y, x, 2)
    sides = time[:, :, None, None], down[:, None, :, None], across[:, None, None]
    return jnp.stack([jnp.broadcast_to(side, shape) for side in sides], axis=-2).reshape(b, t * y * x, 3, 2)


def overlaps(first: Float[Array, "v c 3 2"], second: Float[Array, "v k 3 2"]) -> Float[Array, "v c k"]:
    """Return the volume that cells share, as a share of the volume that either covers; 0 for cells without volume."""
    one, other = first[:, :, None], second[:, None]
    sides = jnp.minimum(one[..., 1], other[..., 1]) - jnp.maximum(one[..., 0], other[..., 0])
    shared = jnp.maximum(sides, 0).prod(axis=-1)
    either = (one[..., 1] - one[..., 0]).prod(axis=-1) + (other[..., 1] - other[..., 0]).prod(axis=-1) - shared
    return jnp.where(shared > 0, shared / jnp.where(either > 0, either, 1.0), 0.0)


def _errors(
    own: Float[Array, "v c d"],
    whole: Float[Array, "v k d"],
    overlap: Float[Array, "v c k"],
    both: Bool[Array, " v"],
    candidates: Bool[Array, " v"],
    temperature: float,
) -> tuple[Float[Array, "v c"], Float[Array, "v c"]]:
    """Return the error of each cell of a clip, and 1 where it counts: where it overlaps with the video's whole clip.

    Candidates are the cells of the whole clips of all videos.
    """
    logits = jnp.einsum("vcd,wkd->vcwk", own, whole, precision="highest") / temperature
    mine = jnp.einsum("vcd,vkd->vck", own, whole, precision="highest") / temperature
    every = jnp.where(candidates[:, None], logits, _NEVER).reshape(*own.shape[:2], -1)
    share = overlap.sum(axis=2, keepdims=True)
    wanted = overlap / jnp.where(share > 0, share, 1.0)
    error = jax.nn.logsumexp(every, axis=2) - (wanted * mine).sum(axis=2)
    return error, (both[:, None] & (share[..., 0] > 0)).astype(jnp.float32)


@register("joint_part", smoke={"widths": [16, 8], "cells": [2, 2, 2]})
def overlap_nce(
    modality: str,
    widths: Sequence[int] = (2048, 2048, 128),
    cells: Sequence[int] = (4, 2, 2),
    temperature: float = 0.1,
    weight: float = 1.0,
    place: str = "place",
    views: int = 3,
) -> OverlapNce:
    """Find the cells of clips among those of the whole video, each in proportion to how much they overlap.

    Views are consecutive rows, the whole video first (`data.clips.whole_and_parts`). A cell is a block of tokens. What
    is to be found is the volume, in time and in the picture, that it shares with each cell of the whole video's clip,
    divided by the volume that either covers. Cells of other videos are wrong; cells that share nothing do not count.

    Args:
      modality: its name; it has no mask.
      widths: of the layers of the projection of cells, with batch norm between them.
      cells: into which a clip is divided, along time, height and width.
      temperature: by which cosines are divided.
      weight: of the term in the loss.
      place: the stream with the places of clips, `data.streams.place`.
      views: of a video, at least 2.

    Raises:
      ValueError: if a number is out of range, or there is no layer.
    """
    if not widths or min(widths) < 1 or temperature <= 0 or weight < 0:
        raise ValueError(
            f"widths={list(widths)}, temperature={temperature}, weight={weight}: at least 1; above 0; at least 0"
        )
    if len(cells) != 3 or min(cells) < 1 or views < 2:
        raise ValueError(f"cells={list(cells)}, views={views}: three numbers, at least 1 each; at least 2")
    if math.prod(cells) < 2:
        raise ValueError(f"cells={list(cells)}: a clip must have at least 2 cells")
    t, y, x = cells
    return OverlapNce(modality, tuple(widths), (t, y, x), float(temperature), float(weight), place, views)
