"""Masked autoencoding of video: VideoMAE, VideoMAE V2, and all that differ by mask or target.

    build(model=vit("B"), encoder_mask=tube(0.9), decoder_mask=running_cell(0.5),
          objectives={"pixels": objective(pixels())})

is VideoMAE V2; without the decoder mask it is VideoMAE.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.masking.core import Masker, plan
from vmae_jax.methods.pictures import reconstruction
from vmae_jax.models.classifier import everything
from vmae_jax.models.variants import Model
from vmae_jax.patches import gather_cubes, patchify
from vmae_jax.registry import register
from vmae_jax.targets.core import Objective
from vmae_jax.targets.pixels import Pixels
from vmae_jax.types import Batch, Context, Loss, MaskPlan, Method, Params, Pictures, Term, row_keys, stream

__all__ = ["Masked", "build", "supervision"]

# A guide: its attribute `inputs` names the streams that it reads beside those of the model, `gives` those it adds.
Annotate = Callable[[Batch, Context], Batch]


@dataclasses.dataclass(frozen=True)
class Masked:
    """The functions of a masked autoencoder; `build` wraps them up as a `Method`.

    Other methods build on these (`plan`, `encode`, `decode`, `loss`) rather than on copies.
    """

    model: Model
    encoder_mask: Masker
    decoder_mask: Masker | None
    objectives: Mapping[str, Objective]
    annotate: Annotate | None = None

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Fresh parameters, {"encoder": …, "decoder": …}, with their partitioning boxes."""
        self.model.check(batch["video"].shape)
        masks = self.plan(batch)
        cubes = self.model.normalize(gather_cubes(batch["video"], masks.visible, self.model.patch))
        encoder = self.model.encoder.init(stream(key, "encoder"), cubes, masks)["params"]
        b, v = masks.visible.shape
        encoded = jnp.zeros((b, self.model.encoder.prefix + v, self.model.encoder.width), self.model.encoder.dtype)
        decoder = self._decoder(batch).init(stream(key, "decoder"), encoded, masks)["params"]
        return {"encoder": encoder, "decoder": decoder}, None

    def plan(self, batch: Batch, *, decode_all: bool = False) -> MaskPlan:
        """The masks of a batch, functions of the examples' seeds."""
        keys = stream(row_keys(batch["seed"]), "mask")
        decoder = None if decode_all else self.decoder_mask
        with jax.named_scope("masks"):
            return plan(keys, batch, self.model.grid, self.encoder_mask, decoder)

    def encode(self, params: Params, batch: Batch, masks: MaskPlan, *, train: bool) -> Array:
        """The encoded visible tokens, a prefix before them; only their cubes are ever made floating point."""
        with jax.named_scope("cubes"):
            cubes = self.model.normalize(gather_cubes(batch["video"], masks.visible, self.model.patch))
        keys = stream(row_keys(batch["seed"]), "drop_path") if train else None
        return jnp.asarray(self.model.encoder.apply({"params": params["encoder"]}, cubes, masks, keys))

    def decode(self, params: Params, batch: Batch, encoded: Array, masks: MaskPlan) -> dict[str, Array]:
        """Every objective's prediction at the decoded places, [b k p] float32."""
        return self._decoder(batch).apply({"params": params["decoder"]}, encoded, masks)

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Each objective's error over the tokens that are decoded and were hidden."""
        self.model.check(batch["video"].shape)
        if self.annotate is not None:
            batch = self.annotate(batch, context)
        masks = self.plan(batch)
        encoded = self.encode(params, batch, masks, train=context.train)
        predictions = self.decode(params, batch, encoded, masks)
        # Rows that only fill up a batch count for nothing.
        weight = masks.weight * batch["valid"][:, None]
        terms = {}
        for name, objective in self.objectives.items():
            with jax.named_scope("targets"):
                target = jax.lax.stop_gradient(objective.target(batch, masks.decode, self.model.patch))
            with jax.named_scope("loss"):
                error = objective.error(predictions[name], target)
            terms[name] = Term((error * weight).sum(), weight.sum(), jnp.float32(objective.weight))
        return Loss(terms)

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """What the encoder makes of whole clips: [b d], or [b n d] without pooling.

        Args:
          layer: the tokens after this many blocks, without the final norm; None is the end.
        """
        self.model.check(batch["video"].shape)
        cubes = self.model.normalize(patchify(batch["video"], self.model.patch))
        encoder, weights = self.model.encoder, params["encoder"]
        if layer is not None:
            encoder, weights = encoder.shallow(weights, layer)
        tokens = jnp.asarray(encoder.apply({"params": weights}, cubes, everything(*cubes.shape[:2])), jnp.float32)
        tokens = tokens[:, encoder.prefix :]
        return tokens.mean(axis=1) if pool else tokens

    def reconstruct(self, params: Params, batch: Batch, context: Context) -> Pictures:
        """Originals, what the encoder sees, and what the decoder makes of all the rest."""
        if self.annotate is not None:
            batch = self.annotate(batch, context)
        masks = self.plan(batch, decode_all=True)
        encoded = self.encode(params, batch, masks, train=False)
        name = self._drawable()
        assert name is not None
        prediction = self.decode(params, batch, encoded, masks)[name]
        target = self.objectives[name].target
        assert isinstance(target, Pixels)
        return reconstruction(batch["video"], masks, prediction, target, self.model.grid, self.model.patch)

    def _drawable(self) -> str | None:
        return next((name for name, one in self.objectives.items() if isinstance(one.target, Pixels)), None)

    def _decoder(self, batch: Batch) -> Any:
        """The decoder, its heads sized by the targets."""
        one = jax.ShapeDtypeStruct((batch["video"].shape[0], 1), jnp.int32)
        sizes = {
            name: jax.eval_shape(lambda b, i, o=objective: o.target(b, i, self.model.patch), dict(batch), one).shape[-1]
            for name, objective in self.objectives.items()
        }
        return self.model.make_decoder(sizes)


def supervision(masks: Iterable[Masker | None], objectives: Iterable[Objective], guide: Annotate | None) -> Any:
    """Return the streams that only the loss reads (`Method.supervision`): those that its parts declare, each once."""
    given = {"video", *getattr(guide, "gives", ())}
    read = [name for part in (*masks, *(one.target for one in objectives)) for name in getattr(part, "inputs", ())]
    needed = (*getattr(guide, "inputs", ()), *(name for name in read if name not in given))
    return tuple(name for name in dict.fromkeys(needed) if name != "video")


@register("method", model="model", encoder_mask="mask", decoder_mask="mask", objectives="objective", annotate="guide")
def build(
    model: Model,
    encoder_mask: Masker,
    objectives: Mapping[str, Objective],
    decoder_mask: Masker | None = None,
    annotate: Annotate | None = None,
) -> Method:
    """A masked autoencoder as a method.

    Args:
      model: the networks, `models.variants.vit`.
      encoder_mask: which tokens the encoder sees.
      objectives: what is predicted, by name.
      decoder_mask: which tokens are predicted (VideoMAE V2); None: all that are hidden (V1).
      annotate: adds to the batch what a frozen network says, before masks and targets.

    Raises:
      ValueError: a mask that does not fit the model's grid, or nothing to predict.
    """
    if not objectives:
        raise ValueError("objectives is empty: name at least one, such as pixels=call('targets.core.objective', …)")
    for mask in (encoder_mask, decoder_mask):
        if mask is not None:
            mask.keep(model.grid)  # says at once whether the grid suits it
    masked = Masked(model, encoder_mask, decoder_mask, dict(objectives), annotate)
    return Method(
        init=masked.init,
        loss=masked.loss,
        features=masked.features,
        reconstruct=masked.reconstruct if masked._drawable() else None,
        supervision=supervision((encoder_mask, decoder_mask), objectives.values(), annotate),
    )
