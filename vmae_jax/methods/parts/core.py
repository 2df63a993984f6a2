"""The parts that the loss of a multimodal method consists of (`methods.joint`)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.methods.masked import Masked
from vmae_jax.types import Batch, Context, Extra, Grid, Loss, MaskPlan, Params

__all__ = ["OfAverage", "Part", "Seen", "others", "pooled", "taught", "there"]


class Seen(NamedTuple):
    """What a method makes of a modality of a batch before its loss.

    Attributes:
      batch: with the modality as its "video", and its own "valid" and "seed".
      masks: what is visible, and what is predicted.
      own: the encoded prefix and visible tokens before the modalities exchange anything.
      fused: the same after it.
      grid: the tokens of a clip.
      taught: what a frozen teacher that sees everything makes of all tokens, after the exchange and in the order of
        the grid, [b n d] without a gradient; None where no part is `Part.taught`.
    """

    batch: Batch
    masks: MaskPlan
    own: Array
    fused: Array
    grid: Grid
    taught: Array | None = None

    @property
    def tokens(self) -> Array:
        """`own` without the prefix, [b n d]."""
        return self.own[:, -self.masks.visible.shape[1] :]


class Part:
    """Base of the parts; a subclass is a frozen dataclass.

    Attributes:
      averaged: whether it reads `Context.average`.
      taught: whether it reads `Seen.taught`, so that the method has a frozen teacher.
      compares: whether it compares clips with each other, by `rows` and `compare`.
      views: how many consecutive rows are views of one video.
      inputs: streams of the batch that the part reads itself.
      common: the two modalities whose vectors `project` puts into one space; None where the part has none.
    """

    averaged: bool = False
    taught: bool = False
    compares: bool = False
    views: int = 1
    inputs: tuple[str, ...] = ()

    @property
    def common(self) -> tuple[str, str] | None:
        """None: there is no such space."""

    def project(self, params: Params, name: str, x: Array, valid: Array) -> Array:
        """Return the features of a modality, pooled, [b d], as vectors of length 1 in the common space, [b k]."""
        raise NotImplementedError

    def check(self, networks: Mapping[str, Masked]) -> None:
        """Raise ValueError if the part does not suit the modalities."""

    def init(self, key: Array, networks: Mapping[str, Masked], batches: Mapping[str, Batch]) -> Params:
        """Return initial parameters, with their partitioning boxes, given the batch as each modality reads it."""
        del key, networks, batches
        return {}

    def begin(self, key: Array, networks: Mapping[str, Masked]) -> Extra:
        """Return what the part carries from step to step, None for nothing."""
        del key, networks

    def advance(self, extra: Extra, carry: Any) -> Extra:
        """Return what is carried on, given the carry of `compare`."""
        del carry
        return extra

    def loss(self, params: Params, networks: Mapping[str, Masked], seen: Mapping[str, Seen]) -> Loss:
        """Return the terms that are sums over clips."""
        del params, networks, seen
        return Loss({})

    def rows(self, params: Params, seen: Mapping[str, Seen], target: Callable[[], Mapping[str, Seen]]) -> Any:
        """Return what `compare` needs of each clip.

        Args:
          params: of the part.
          seen: of the batch.
          target: computes the same with the average of the parameters, without gradient.
        """
        raise NotImplementedError

    def compare(self, params: Params, rows: Any, average: Params, context: Context) -> Loss:
        """Return terms that compare clips, given the rows of the whole global batch.

        One alone is named after the part, several PART_TERM. The carry, if any, is what `advance` needs of them.

        Args:
          params: of the part.
          rows: of all clips.
          average: of the part's parameters; None where none is kept.
          context: of the step; its `extra` is the part's own.
        """
        raise NotImplementedError


class OfAverage(Part):
    """Base of the parts that compare a modality with what the average of the encoder makes of it."""

    averaged = True
    compares = True
    modality: str

    def check(self, networks: Mapping[str, Masked]) -> None:
        """Raise ValueError if there is no such modality."""
        there(type(self).__name__.lower(), networks, self.modality)

    def rows(self, params: Params, seen: Mapping[str, Seen], target: Callable[[], Mapping[str, Seen]]) -> Any:
        """Return the pooled features of each clip, by the encoder and by its average."""
        del params
        own = seen[self.modality]
        return {
            "online": pooled(own),
            "target": jax.lax.stop_gradient(pooled(target()[self.modality])),
            "valid": jnp.asarray(own.batch["valid"]),
        }


def others(views: int, rows: int) -> Array:
    """Return the rows of the other views of each row's video, int32 [rows views-1], in turn from the next one on."""
    row = jnp.arange(rows)[:, None]
    return row - row % views + (row + jnp.arange(1, views)) % views


def taught(seen: Mapping[str, Seen], whole: Mapping[str, Seen]) -> dict[str, Seen]:
    """Return what a method makes of a batch, with what its teacher makes of it whole; no gradient flows to that."""
    tokens = {name: one.fused[:, -one.masks.visible.shape[1] :] for name, one in whole.items()}
    return {name: one._replace(taught=jax.lax.stop_gradient(tokens[name])) for name, one in seen.items()}


def there(part: str, networks: Mapping[str, Masked], *names: str, whole: str = "") -> None:
    """Raise ValueError if a part's modality is not there, or, with the reason `whole`, if it has a mask."""
    for name in names:
        if name not in networks:
            raise ValueError(f"{part}: there is no modality {name!r}, only {', '.join(networks)}")
        if whole and networks[name].encoder_mask is not None:
            raise ValueError(f"{part}: {whole}, so mask must be None")


def pooled(one: Seen) -> Array:
    """Return the mean over the visible tokens of each clip, before anything is exchanged, [b d] float32."""
    tokens = one.tokens.astype("float32")
    if one.masks.valid is None:
        return tokens.mean(axis=1)
    weight = one.masks.valid.astype("float32")[..., None]
    return (tokens * weight).sum(axis=1) / weight.sum(axis=1)
