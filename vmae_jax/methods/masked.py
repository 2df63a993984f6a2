"""Masked autoencoding of video: VideoMAE, VideoMAE V2, and methods that differ from them in mask or target.

    build(model=vit("B"), encoder_mask=tube(0.9), decoder_mask=running_cell(0.5),
          objectives={"pixels": objective(pixels())})

is VideoMAE V2; without the decoder mask it is VideoMAE.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.masking.core import Masker, plan, select
from vmae_jax.methods.encoding import EncoderFeatures, encoded
from vmae_jax.methods.guides import Guide
from vmae_jax.methods.pictures import reconstruction
from vmae_jax.models.classifier import everything
from vmae_jax.models.variants import Model
from vmae_jax.patches import gather_cubes
from vmae_jax.registry import register
from vmae_jax.scopes import tower
from vmae_jax.targets.core import Objective
from vmae_jax.targets.pixels import Pixels
from vmae_jax.types import Batch, Context, Loss, MaskPlan, Method, Params, Pictures, Term, row_keys, stream

__all__ = ["Masked", "Pass", "build", "supervision"]


class Pass(NamedTuple):
    """What a masked autoencoder computes from a batch before its loss.

    Attributes:
      batch: the batch, with the arrays that guides have added.
      masks: the plan of visible and predicted tokens.
      encoded: the encoded prefix and visible tokens, [b prefix+v d].
      predictions: those of each objective at the decoded positions, [b k p] float32.
    """

    batch: Batch
    masks: MaskPlan
    encoded: Array
    predictions: dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Masked(EncoderFeatures):
    """The functions of a masked autoencoder, which `build` returns as a `Method`.

    The loss is `terms(forward(…))`. Other methods reuse these parts.
    """

    model: Model
    encoder_mask: Masker | None  # None: the encoder sees all tokens, and nothing is predicted
    decoder_mask: Masker | None
    objectives: Mapping[str, Objective]
    guides: Mapping[str, Guide] = dataclasses.field(default_factory=dict)

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "decoder": …}, with their partitioning boxes."""
        self.model.check(batch["video"].shape)
        masks = self._any_plan(batch["video"].shape[0])
        cubes = self.model.normalize(gather_cubes(batch["video"], masks.visible, self.model.patch))
        encoder = self.model.encoder.init(stream(key, "encoder"), cubes, masks)["params"]
        b, v = masks.visible.shape
        encoded = jnp.zeros((b, self.model.encoder.prefix + v, self.model.encoder.width), self.model.encoder.dtype)
        decoder = self._decoder(batch).init(stream(key, "decoder"), encoded, masks)["params"]
        return {"encoder": encoder, "decoder": decoder}, None

    def frozen(self, key: Array, batch: Batch) -> Params:
        """Return initial parameters of the guides, by name."""
        return {name: guide.init(stream(key, name), batch) for name, guide in self.guides.items()}

    def annotated(self, frozen: Params, batch: Batch) -> Batch:
        """Return the batch with the arrays that each guide adds, in order. No gradient flows into the guides."""
        for name, guide in self.guides.items():
            with tower(name):
                batch = {**batch, **jax.lax.stop_gradient(guide.annotate(frozen[name], batch))}
        return batch

    def plan(self, batch: Batch, *, decode_all: bool = False) -> MaskPlan:
        """Return the masks of an annotated batch, which are functions of the examples' seeds."""
        if self.encoder_mask is None:
            return self._any_plan(batch["video"].shape[0])
        keys = stream(row_keys(batch["seed"]), "mask")
        decoder = None if decode_all else self.decoder_mask
        with jax.named_scope("masks"):
            return plan(keys, batch, self.model.grid, self.encoder_mask, decoder)

    def encode(self, params: Params, batch: Batch, masks: MaskPlan, *, train: bool) -> Array:
        """Return the encoded prefix and visible tokens."""
        return encoded(self.model, params["encoder"], batch, masks, train=train)

    def decode(self, params: Params, batch: Batch, encoded: Array, masks: MaskPlan) -> dict[str, Array]:
        """Return the prediction of each objective at the decoded positions, [b k p] float32."""
        return self._decoder(batch).apply({"params": params["decoder"]}, encoded, masks)

    def forward(self, params: Params, batch: Batch, context: Context, *, decode_all: bool = False) -> Pass:
        """Annotate, mask, encode and decode a batch.

        Args:
          decode_all: predict all hidden tokens instead of those of the decoder's mask.
        """
        self.model.check(batch["video"].shape)
        batch = self.annotated(context.frozen, batch)
        masks = self.plan(batch, decode_all=decode_all)
        encoded = self.encode(params, batch, masks, train=context.train)
        return Pass(batch, masks, encoded, self.decode(params, batch, encoded, masks))

    def errors(self, done: Pass) -> dict[str, Array]:
        """Return the error of each objective at the decoded positions, [b k] float32."""
        found = {}
        for name, objective in self.objectives.items():
            with jax.named_scope("targets"):
                target = objective.target(done.batch, done.masks.decode, self.model.patch)
            with jax.named_scope("loss"):
                found[name] = objective.error(done.predictions[name], jax.lax.stop_gradient(target))
            if hasattr(objective.target, "counted"):
                found[name] *= objective.target.counted(done.batch, done.masks.decode, self.model.patch)
        return found

    def terms(self, done: Pass) -> dict[str, Term]:
        """Return the error of each objective, averaged over the tokens that were hidden and decoded."""
        # Rows that only pad the batch do not count.
        weight = done.masks.weight * done.batch["valid"][:, None]
        return {
            name: Term((error * weight).sum(), weight.sum(), jnp.float32(self.objectives[name].weight))
            for name, error in self.errors(done).items()
        }

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the loss of a batch, with one term for each objective."""
        return Loss(self.terms(self.forward(params, batch, context)))

    def reconstruct(self, params: Params, batch: Batch, context: Context, *, mask: Masker | None = None) -> Pictures:
        """Return the originals, the visible cubes, and the decoder's reconstructions of all others.

        Args:
          mask: replaces that of the encoder.
        """
        name = self._drawable()
        assert name is not None
        one = self if mask is None else dataclasses.replace(self, encoder_mask=mask)
        done = one.forward(params, batch, dataclasses.replace(context, train=False), decode_all=True)
        target = self.objectives[name].target
        assert isinstance(target, Pixels)
        model = self.model
        return reconstruction(done.batch["video"], done.masks, done.predictions[name], target, model.grid, model.patch)

    def method(self) -> Method:
        """Return these functions as a method."""
        masks = (self.encoder_mask, self.decoder_mask)
        return Method(
            init=self.init,
            loss=self.loss,
            features=self.features,
            frame_features=self.frame_features,
            reconstruct=self.reconstruct if self._drawable() else None,
            frozen=self.frozen if self.guides else None,
            check_first=self.check_first if any(mask and mask.check for mask in masks) else None,
            supervision=supervision(masks, self.objectives.values(), self.guides.values()),
        )

    def check_first(self, batch: Batch) -> None:
        """Raise ConfigError if a mask cannot work on the first batch of a run."""
        for mask in (self.encoder_mask, self.decoder_mask):
            if mask is not None and mask.check is not None:
                mask.check(batch)

    def _drawable(self) -> str | None:
        return next((name for name, one in self.objectives.items() if isinstance(one.target, Pixels)), None)

    def _decoder(self, batch: Batch) -> Any:
        """Return the decoder, with heads of the targets' sizes."""

        def targets(batch: Batch) -> dict[str, Array]:
            batch = self.annotated(self.frozen(jax.random.key(0), batch), batch)
            one = jnp.zeros((batch["video"].shape[0], 1), jnp.int32)
            return {name: o.target(batch, one, self.model.patch) for name, o in self.objectives.items()}

        return self._make_decoder({name: t.shape[-1] for name, t in jax.eval_shape(targets, dict(batch)).items()})

    def _make_decoder(self, heads: Mapping[str, int]) -> Any:
        """The decoder with these heads."""
        return self.model.make_decoder(heads)

    def _any_plan(self, b: int) -> MaskPlan:
        """Return a plan of the right sizes, independent of the batch, with which parameters are initialized."""
        grid = self.model.grid
        if self.encoder_mask is None:
            return everything(b, grid.size)
        scores = jnp.zeros((b, grid.size))
        if self.decoder_mask is None:
            return select(scores, self.encoder_mask.keep(grid))
        return select(scores, self.encoder_mask.keep(grid), scores, self.decoder_mask.keep(grid))


def supervision(
    masks: Iterable[Masker | None], objectives: Iterable[Objective], guides: Iterable[Guide] = ()
) -> tuple[str, ...]:
    """Return the streams that only the loss reads (`Method.supervision`): those that its parts declare, each once."""
    given, needed = {"video"}, []
    for guide in guides:
        needed += [name for name in guide.inputs if name not in given]
        given |= {*guide.gives}
    for part in (*masks, *(one.target for one in objectives)):
        needed += [name for name in getattr(part, "inputs", ()) if name not in given]
    return tuple(dict.fromkeys(needed))


@register("method", model="model", encoder_mask="mask", decoder_mask="mask", objectives="objective", guides="guide")
def build(
    model: Model,
    encoder_mask: Masker,
    objectives: Mapping[str, Objective],
    decoder_mask: Masker | None = None,
    guides: Mapping[str, Guide] | None = None,
) -> Method:
    """Return a masked autoencoder as a method.

    Args:
      model: encoder and decoder, `models.variants.vit`.
      encoder_mask: which tokens the encoder sees.
      objectives: what is predicted, by name.
      decoder_mask: which tokens are predicted (VideoMAE V2); None: all hidden ones (VideoMAE).
      guides: frozen networks, by name, that add arrays for masks and targets to the batch; their weights are
        `frozen/NAME`, which `init_from` sets.

    Raises:
      ValueError: if a mask does not fit the grid of the model, or there is nothing to predict.
    """
    if not objectives:
        raise ValueError("objectives is empty: name at least one, such as pixels=call('targets.core.objective', …)")
    for mask in (encoder_mask, decoder_mask):
        if mask is not None:
            mask.keep(model.grid)  # fails now if the grid does not suit the mask
    return Masked(model, encoder_mask, decoder_mask, dict(objectives), dict(guides or {})).method()
