"""ConST-CL (Yuan et al. 2022): regions of a clip are predicted from another clip, and found among its regions."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vmae_jax.augment.regions import Regions
from vmae_jax.methods.masked import Masked
from vmae_jax.methods.parts.core import Part, Seen, there
from vmae_jax.models.regions import ContextDecoder, pooled_boxes, spread_slots
from vmae_jax.registry import register
from vmae_jax.types import Batch, Context, Loss, Mean, Params, Term, row_keys, stream
from vmae_jax.vectors import unit

__all__ = ["RegionNce", "region_nce"]

_NEVER = -1e30  # the logit of a region that is no candidate


@dataclasses.dataclass(frozen=True)
class RegionNce(Part):
    """See `region_nce`."""

    modality: str
    regions: Regions | None
    boxes: str | None
    context: int
    width: int
    heads: int
    depth: int
    temperature: float
    weight: float
    compares: bool = True
    views: int = 2

    @property
    def inputs(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride] - it follows the stream
        return () if self.boxes is None else (self.boxes, f"{self.boxes}_mask")

    def check(self, networks: Mapping[str, Masked]) -> None:
        """Raise ValueError if there is no such modality, or its clips do not suit."""
        there("region_nce", networks, self.modality, whole="regions are means of tokens in place")
        spread_slots(networks[self.modality].model.grid.t, self.context)

    def init(self, key: Array, networks: Mapping[str, Masked], batches: Mapping[str, Batch]) -> Params:
        """See `Part.init`: the decoder of regions."""
        width, grid = networks[self.modality].model.encoder.width, networks[self.modality].model.grid
        given = jnp.zeros((1, 2, width)), jnp.zeros((1, self.context, grid.h, grid.w, width))
        return {"decoder": self._decoder(width, jnp.float32).init(stream(key, "decoder"), *given)["params"]}

    def rows(self, params: Params, seen: Mapping[str, Seen], target: Callable[[], Mapping[str, Seen]]) -> Any:
        """Return the regions of each clip, and what is predicted of them from the other clip of the video, [b n d]."""
        del target
        one = seen[self.modality]
        grid, tokens = one.grid, one.tokens
        b, _, d = tokens.shape
        tokens = unit(tokens.astype(jnp.float32)).reshape(b, grid.t, grid.h, grid.w, d)
        boxes, there = self._boxes(one.batch)
        instances = pooled_boxes(tokens[:, grid.t // 2], boxes)
        memory = jnp.stack([tokens[:, slot] for slot in spread_slots(grid.t, self.context)], axis=1)
        memory = memory.reshape(b // 2, 2, *memory.shape[1:])[:, ::-1].reshape(memory.shape)
        decoder = self._decoder(d, one.own.dtype)
        predicted: Any = decoder.apply({"params": params["decoder"]}, instances, memory.astype(one.own.dtype))
        valid = jnp.asarray(one.batch["valid"])
        return {"instances": instances, "predicted": predicted.astype(jnp.float32), "there": there & valid[:, None]}

    def _boxes(self, batch: Batch) -> tuple[Float[Array, "b n 4"], Bool[Array, "b n"]]:
        """Return the boxes of the middle of each clip, and which of them there are."""
        if self.boxes is not None:
            boxes, there = (jnp.asarray(batch[name]) for name in self.inputs)
            middle = boxes.shape[1] // 2
            return boxes[:, middle].astype(jnp.float32), there[:, middle]
        assert self.regions is not None
        boxes = self.regions(stream(row_keys(batch["seed"]), "regions"))
        return boxes, jnp.ones(boxes.shape[:2], bool)

    def compare(self, params: Params, rows: Any, average: Params, context: Context) -> Loss:
        """Return the cross-entropy of finding the partner of each region, and how often it is the nearest."""
        del params, average, context
        instances, predicted = (unit(rows[name]) for name in ("instances", "predicted"))
        pairs = [x.reshape(-1, 2, *x.shape[1:]) for x in (instances, predicted, rows["there"])]
        total, right, count = jnp.float32(0), jnp.float32(0), jnp.float32(0)
        for view in (0, 1):
            (own, other), (asked, _), (there, candidates) = ((x[:, view], x[:, 1 - view]) for x in pairs)
            error, hits, counted = _found(own, asked, there, other, candidates, self.temperature)
            total, right = total + (error * counted).sum(), right + (hits * counted).sum()
            count = count + counted.sum()
        return Loss({"region_nce": Term(total, count, jnp.float32(self.weight))}, {"accuracy": Mean(right, count)})

    def _decoder(self, features: int, dtype: Any) -> ContextDecoder:
        return ContextDecoder(self.width, self.heads, self.depth, features, dtype)


def _found(
    own: Float[Array, "v n d"],
    predicted: Float[Array, "v n d"],
    there: Bool[Array, "v n"],
    other: Float[Array, "v n d"],
    candidates: Bool[Array, "v n"],
    temperature: float,
) -> tuple[Float[Array, "v n"], Float[Array, "v n"], Float[Array, "v n"]]:
    """Return the error of each region of one view, whether its partner is the nearest, and what counts.

    The partner is the region of the other view that is most like the region itself, before the prediction. Candidates
    are the partner and the regions of that view of other videos.
    """
    alike = jnp.where(candidates[:, None], jnp.einsum("vid,vjd->vij", own, other, precision="highest"), _NEVER)
    partner = jnp.take_along_axis(other, alike.argmax(axis=2)[..., None], axis=1)
    right = jnp.einsum("vid,vid->vi", predicted, partner, precision="highest") / temperature
    logits = jnp.einsum("vid,wjd->viwj", predicted, other, precision="highest") / temperature
    same = jnp.eye(len(own), dtype=bool)[:, None, :, None]
    wrong = jnp.where(candidates & ~same, logits, _NEVER).reshape(*right.shape, -1)
    counted = there & candidates.any(axis=1, keepdims=True)
    error = jnp.logaddexp(right, jax.nn.logsumexp(wrong, axis=2)) - right
    return error, (right > wrong.max(axis=2)).astype(jnp.float32), counted.astype(jnp.float32)


@register("joint_part", regions="regions", smoke={"context": 1, "width": 8, "heads": 2, "depth": 1})
def region_nce(
    modality: str,
    regions: Regions | None = None,
    boxes: str | None = None,
    context: int = 5,
    width: int = 128,
    heads: int = 3,
    depth: int = 3,
    temperature: float = 0.2,
    weight: float = 1.0,
) -> RegionNce:
    """Predict the regions of a clip from another clip of the video, and find them among its regions and all others.

    Views are consecutive rows, two of each video. A region is the mean of the tokens in a box in the middle of a clip,
    in the encoder's own space. The prediction attends to the tokens of the other clip, and is compared with that clip's
    regions. The right one is the most similar to the region before the prediction; those of other videos are wrong.

    Args:
      modality: its name; it has no mask.
      regions: draws the boxes of each clip, `augment.regions.random_boxes`.
      boxes: in place of `regions`, the stream with the boxes, `data.streams.boxes`.
      context: slots of the other clip that the prediction attends to, an odd number.
      width: of each head of the prediction.
      heads: of each of its layers.
      depth: the number of its layers.
      temperature: by which cosines are divided.
      weight: of the term in the loss.

    Raises:
      ValueError: if a number is out of range, or not exactly one of `regions` and `boxes` is given.
    """
    if (regions is None) == (boxes is None):
        raise ValueError("give either regions, which draws boxes, or boxes, the name of a stream")
    if min(context, width, heads, depth) < 1 or context % 2 == 0:
        raise ValueError(
            f"context={context}, width={width}, heads={heads}, depth={depth}: at least 1 each, and context is odd"
        )
    if temperature <= 0 or weight < 0:
        raise ValueError(f"temperature={temperature}, weight={weight}: above 0, at least 0")
    return RegionNce(modality, regions, boxes, context, width, heads, depth, float(temperature), float(weight))
