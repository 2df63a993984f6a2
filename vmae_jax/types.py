"""The few types every part of vmae_jax agrees on: a batch, a mask, a loss, a method.

Everything here is a pytree or a named tuple of pure functions, which `jax.jit` and `jax.grad` accept. Shapes use one
letter each: b clips, t h w c video, n tokens of a clip, v visible, k decoded, p pixels of a cube, d width.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, UInt32, jaxtyped

try:
    from beartype import beartype as _typechecker
except ImportError:  # inference machines may leave it out; shapes are then unchecked
    _typechecker = None

__all__ = [
    "Array", "Batch", "Carried", "Context", "Extra", "Grid", "Loss", "MaskPlan", "Mean", "Method", "Output", "Params",
    "Pictures", "Term", "hold", "merge", "row_keys", "stream", "typed",
]  # fmt: skip

Batch = Mapping[str, Any]  # arrays with one row a clip, or their shapes
Params = Any  # a nested dict of arrays
Extra = Any  # what a method carries from step to step beside its parameters
F = TypeVar("F", bound=Callable[..., Any])


def typed(function: F) -> F:
    """Checks the jaxtyping annotations of `function` when it is called (under jit: traced)."""
    if _typechecker is None:
        return function
    return jaxtyped(typechecker=_typechecker)(function)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The tokens of a clip: t slots of h by w cubes, flattened in (t, h, w) order."""

    t: int
    h: int
    w: int

    @property
    def size(self) -> int:
        return self.t * self.h * self.w

    @property
    def slot(self) -> int:
        """Tokens in one time slot."""
        return self.h * self.w

    def __str__(self) -> str:
        return f"{self.t}x{self.h}x{self.w}"


@struct.dataclass
class MaskPlan:
    """What the encoder sees, what the decoder predicts, and how much each prediction counts.

    Attributes:
      visible: token indices the encoder sees, [b v], ascending in each row.
      decode: token indices the decoder predicts, [b k], ascending in each row.
      weight: the weight of each prediction in the loss, [b k].
      valid: False where `visible` is padding, attended nowhere, [b v]; None when all are real.
      decode_valid: the same of `decode`, [b k]; the weight of padding is 0.
      unit: the size in tokens (t, h, w) of the blocks of the grid that are visible or hidden as a whole.
    """

    visible: Int[Array, "b v"]
    decode: Int[Array, "b k"]
    weight: Float[Array, "b k"]
    valid: Bool[Array, "b v"] | None = None
    decode_valid: Bool[Array, "b k"] | None = None
    unit: tuple[int, int, int] = struct.field(pytree_node=False, default=(1, 1, 1))


@struct.dataclass
class Mean:
    """A mean in two parts: `total` and `count` are summed over the global batch, divided once."""

    total: Float[Array, ""]
    count: Float[Array, ""]


@struct.dataclass
class Term:
    """One part of the loss; the step forms sum(weight * total / count) over the global batch."""

    total: Float[Array, ""]
    count: Float[Array, ""]
    weight: Any = 1.0


@struct.dataclass
class Loss:
    """What a method's loss function returns.

    Attributes:
      terms: the parts of the loss by name; `loss/NAME` in the metrics.
      metrics: further means to record; no gradient flows from them.
      carry: whatever `Method.advance` needs from this batch.
      rows: arrays with one row a clip; `Method.global_loss` receives those of the whole global batch, in its order.
    """

    terms: dict[str, Term]
    metrics: dict[str, Mean] = struct.field(default_factory=dict)
    carry: Any = None
    rows: Any = None


@struct.dataclass
class Context:
    """What a loss may know beside parameters and batch.

    Attributes:
      key: the step's own key, for the rare draw that belongs to no single example.
      step: the number of the step, from 0.
      progress: the share of the run that is done, 0 to 1, for schedules; None where its length is not known.
      average: the moving average of the parameters (`train.ema_decay`), before the step; None where none is kept.
      extra: the method's carried state (`TrainState.extra`).
      frozen: networks that are never trained (teachers, flow, text).
      train: static; False switches drop path and dropout off.
    """

    key: Key[Array, ""]
    step: Int[Array, ""]
    extra: Extra = None
    frozen: Params = None
    train: bool = struct.field(pytree_node=False, default=True)
    progress: Float[Array, ""] | None = None
    average: Params = None


class Carried(NamedTuple):
    """What a state holds beside its parameters, for computing a loss outside of training.

    Attributes:
      extra: the method's carried state.
      frozen: networks that are never trained.
      average: the average of the parameters, where the method reads it (`Method.averaged`).
    """

    extra: Extra = None
    frozen: Params = None
    average: Params = None

    def context(self, key: Key[Array, ""], step: Any = 0) -> Context:
        """Return the context of a loss or a reconstruction, with drop path and dropout switched off."""
        return Context(key, jnp.asarray(step, jnp.int32), self.extra, self.frozen, train=False, average=self.average)


@struct.dataclass
class Pictures:
    """Reconstructions, as rows of named videos.

    Attributes:
      videos: uint8 [b t h w c], one a row; the first is the original.
      names: of the rows. (A dict would come back from a compiled function in alphabetical order.)
      borrowed: names of rows drawn with statistics of the truth that a model does not have.
      strips: uint8 [b h w c], pictures of a whole clip, such as spectrograms, in which time runs from left to right.
      strip_names: of the strips.
    """

    videos: tuple[Array, ...]
    names: tuple[str, ...] = struct.field(pytree_node=False)
    borrowed: tuple[str, ...] = struct.field(pytree_node=False, default=())
    strips: tuple[Array, ...] = ()
    strip_names: tuple[str, ...] = struct.field(pytree_node=False, default=())

    @classmethod
    def of(cls, rows: Mapping[str, Array], borrowed: tuple[str, ...] = ()) -> "Pictures":
        """Pictures of these rows, in this order."""
        return cls(tuple(rows.values()), tuple(rows), tuple(borrowed))

    @property
    def rows(self) -> dict[str, Array]:
        """Name -> video, in order."""
        return dict(zip(self.names, self.videos, strict=True))


@dataclasses.dataclass(frozen=True)
class Output:
    """The meaning of some columns of a method's outputs.

    Attributes:
      kind: "one" class of several (softmax), "many" at once (a sigmoid each), "numbers", or of "frames" (many).
      outputs: how many columns.
      label: the key of the batch that holds the truth.
    """

    kind: str
    outputs: int
    label: str = "label"

    def truth(self, label: Any) -> Array:
        """Labels as float [b outputs]: class numbers one-hot (NaN if there is no such class), any others as they are.

        Raises:
          ValueError: another number of columns.
        """
        if self.kind != "numbers" and self.numbered(label):
            known = (label >= 0) & (label < self.outputs)
            return jnp.where(known[:, None], jax.nn.one_hot(label, self.outputs), jnp.nan)
        target = jnp.asarray(label, jnp.float32).reshape(label.shape[0], -1)
        if target.shape[1] != self.outputs:
            raise ValueError(f"batch[{self.label!r}] has {target.shape[1]} numbers an example, the head {self.outputs}")
        return target

    def numbered(self, label: Any) -> bool:
        """Whether labels are class numbers, one an example."""
        return label.ndim == 1 and jnp.issubdtype(label.dtype, jnp.integer)


def hold(extra: Extra, params: Params, carry: Any, context: Context) -> Extra:
    """The `advance` of methods that carry nothing from step to step."""
    del params, carry, context
    return extra


def merge(local: Loss, compared: Loss) -> Loss:
    """The parts of `Method.loss` and of `Method.global_loss` as one loss.

    Raises:
      ValueError: if both have a term or metric of the same name, or both have a carry.
    """
    both = (local.terms.keys() & compared.terms.keys()) | (local.metrics.keys() & compared.metrics.keys())
    if both:
        raise ValueError(f"Method.loss and Method.global_loss both return {sorted(both)}; each name must be unique")
    if local.carry is not None and compared.carry is not None:
        raise ValueError("Method.loss and Method.global_loss both return a carry; only one of them may")
    carry = compared.carry if local.carry is None else local.carry
    return Loss(local.terms | compared.terms, local.metrics | compared.metrics, carry, local.rows)


class Method(NamedTuple):
    """A stage or a paper: pure functions that one trainer runs.

    Attributes:
      init: (key, batch) -> (params, extra); params may carry flax partitioning boxes.
      loss: (params, batch, context) -> Loss.
      features: (params, batch, *, layer=None, pool=True) -> [b d] or [b n d].
      frame_features: (params, frames uint8 [b h w c], *, layer=None) -> [b h/p w/p d], the tokens of single
        pictures of any size that the patch divides, in place; None where the method has none.
      frame_states: (params, frames, state) -> (those of successive pictures of a video, the state after each), or None.
      predict: (params, batch) -> outputs [b d], where there are any.
      reconstruct: (params, batch, context, *, mask=None) -> Pictures, where there are any; `mask` replaces its own.
      advance: (extra, params, carry, context) -> extra, after the parameters' update, which `params` has.
      statistics: (params, carry, context) -> params, with what follows the batches (a batch norm's mean), or None.
      group: number of consecutive rows that belong together (views of one video, clips that are mixed)
        and are never divided between micro-batches; None where that is the whole batch.
      views: number of views of a video that `loss` and `reconstruct` read together, as consecutive rows.
      global_loss: (params, rows, context) -> Loss, the terms that compare all clips of the global batch, from
        `Loss.rows`, and what these share (a temperature, batch norm of a head); None where clips are independent.
      frozen: (key, batch) -> networks that are never trained, `TrainState.frozen`, for `init_from` to fill, or None.
      check: looks at a batch on the host; raises ConfigError if it cannot be used (a label that is no class), or None.
      check_first: as `check`, of the first batch of a run alone, for what no single later batch has to have.
      suits: takes the number of clips of a micro-batch; raises ConfigError if it cannot train on so many; None: on any.
      heads: the meaning of `predict`'s columns, by name and in order ("" if alone); None: a class each, batch["label"].
      inputs: the streams of the batch that the networks read; "seed", "index" and "valid" are in every batch.
      supervision: further streams that `loss` and `reconstruct` alone read: labels, and those of masks and targets.
      averaged: whether the loss reads `Context.average`, so that training has to keep an average of the parameters.
      expects: attributes that streams of the loader must have, by stream, such as {"audio": {"rate": 16000}}, or None.
      adaptation: how it learns from videos while predicting them (`methods.adaptation.Adaptation`), or None.
      common: spaces that two modalities share, such as videos and sounds (`methods.common.Common`), by name, or None.
    """

    init: Callable[[Array, Batch], tuple[Params, Extra]]
    loss: Callable[[Params, Batch, Context], Loss]
    features: Callable[..., Array]
    predict: Callable[[Params, Batch], Array] | None = None
    reconstruct: Callable[..., Pictures] | None = None
    advance: Callable[[Extra, Params, Any, Context], Extra] = hold
    group: int | None = 1
    views: int = 1
    global_loss: Callable[[Params, Any, Context], Loss] | None = None
    frozen: Callable[[Array, Batch], Params] | None = None
    check: Callable[[Batch], None] | None = None
    suits: Callable[[int], Any] | None = None
    heads: Mapping[str, Output] | None = None
    inputs: tuple[str, ...] = ("video",)
    supervision: tuple[str, ...] = ()
    frame_features: Callable[..., Array] | None = None
    frame_states: Callable[..., tuple[Array, Array]] | None = None
    check_first: Callable[[Batch], None] | None = None
    averaged: bool = False
    expects: Mapping[str, Mapping[str, Any]] | None = None
    adaptation: Any = None
    statistics: Callable[[Params, Any, Context], Params] | None = None
    common: Mapping[str, Any] | None = None

    def total_loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """All terms of a batch, those that compare its clips included."""
        local = self.loss(params, batch, context)
        if self.global_loss is None:
            return local
        if local.rows is None:
            raise ValueError("Method.global_loss compares Loss.rows, but Method.loss returned none")
        return merge(local, self.global_loss(params, local.rows, context))


def stream(key_or_keys: Key[Array, "..."], name: str) -> Key[Array, "..."]:
    """The independent random stream `name` of a key, or of each row of keys.

    Keys are folded, never split and threaded: a stream depends on the key and the name alone,
    so adding a draw somewhere changes no other draw.
    """
    fold = lambda key: jax.random.fold_in(key, zlib.crc32(name.encode()))  # noqa: E731
    for _ in range(key_or_keys.ndim):
        fold = jax.vmap(fold)
    return fold(key_or_keys)


def row_keys(seed: UInt32[Array, "b 2"]) -> Key[Array, "b"]:
    """The key of each example, from `batch["seed"]`."""
    return jax.random.wrap_key_data(jnp.asarray(seed, jnp.uint32), impl="threefry2x32")
