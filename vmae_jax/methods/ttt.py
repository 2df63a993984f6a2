"""Test-time training (Sun et al. 2020; Gandelsman et al. 2022; on video streams, Wang et al. 2025).

    build(model=vit("B", frames=1, tubelet=1, …), classes=400, mask=random(0.8, "visible"), objectives={"pixels": …})

One encoder has two heads: a classifier of whole clips, and the decoder of a masked autoencoder. Both are trained on
labelled clips. Afterwards, encoder and decoder go on learning from the masked clips of a video while the classifier
predicts its frames (`Method.adaptation`, `vmae ttt`).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.masking.core import Masker
from vmae_jax.methods import labels
from vmae_jax.methods.adaptation import Adaptation
from vmae_jax.methods.classify import ALONE, Classify
from vmae_jax.methods.masked import Masked, supervision
from vmae_jax.models.classifier import Classifier
from vmae_jax.models.variants import Model
from vmae_jax.registry import register
from vmae_jax.targets.core import Objective
from vmae_jax.types import Batch, Context, Loss, MaskPlan, Method, Params, merge

__all__ = ["TwoHeads", "build"]

TRAINED = ("encoder", "decoder")  # at test time


@dataclasses.dataclass(frozen=True)
class Reconstruction(Masked):
    """A masked autoencoder whose loss may also count tokens that the encoder sees."""

    everywhere: bool = False

    def plan(self, batch: Batch, *, decode_all: bool = False) -> MaskPlan:
        """Return the masks of a batch; `decode_all`, which is for pictures, predicts hidden tokens alone."""
        masks = super().plan(batch, decode_all=decode_all)
        if decode_all or not self.everywhere:
            return masks
        shape = (len(masks.visible), self.model.grid.size)
        everything = {"decode": jnp.broadcast_to(jnp.arange(shape[1]), shape), "weight": jnp.ones(shape, jnp.float32)}
        return dataclasses.replace(masks, **everything)


@dataclasses.dataclass(frozen=True)
class TwoHeads:
    """The functions of the method, which `build` returns.

    Attributes:
      task: encoder and classifier.
      own: the same encoder, and the decoder.
    """

    task: Classify
    own: Reconstruction

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters: those of the classifier, and {"decoder": …}."""
        return {**self.own.init(key, batch)[0], **self.task.init(key, batch)[0]}, None

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the classifier's error on whole clips, and the decoder's on the same clips masked."""
        return merge(self.task.loss(params, batch, context), self.own.loss(params, batch, context))

    def method(self) -> Method:
        """Return these functions as a method."""
        parts = ((self.own.encoder_mask,), self.own.objectives.values())
        return Method(
            init=self.init,
            loss=self.loss,
            features=self.task.features,
            frame_features=self.task.frame_features,
            predict=self.task.predict,
            reconstruct=self.own.method().reconstruct,
            check=functools.partial(labels.check, self.task.heads),
            check_first=self.own.method().check_first,
            heads=self.task.heads,
            supervision=tuple(dict.fromkeys(("label", *supervision(*parts)))),
            adaptation=Adaptation(self.own.loss, TRAINED, ("video", *supervision(*parts))),
        )


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"classes": max(given["classes"], 10)}  # of the drawn clips


@register("method", model="model", mask="mask", objectives="objective", smoke=_smoke)
def build(
    model: Model,
    classes: int,
    mask: Masker,
    objectives: Mapping[str, Objective],
    everywhere: bool = False,
    dropout: float = 0.0,
    init_scale: float = 0.001,
    smoothing: float = 0.0,
) -> Method:
    """Return the joint training of a classifier and a masked autoencoder, as a method that can adapt to a video.

    The encoder's final norm belongs to both; the classifier averages its tokens, and has a norm and a layer of its own.

    Args:
      model: encoder and decoder, `models.variants.vit`, of single frames or of clips.
      classes: their number; each clip has one.
      mask: of the autoencoder.
      objectives: what it predicts, by name, with their weights in the loss; the classifier's weight is 1.
      everywhere: count the error of all tokens, as the official code does, not of hidden ones alone (the paper).
      dropout: the rate before the classifier's layer.
      init_scale: a factor on the initial kernel of that layer.
      smoothing: label smoothing.

    Raises:
      ValueError: if the mask does not fit the grid of the model, there is nothing to predict, there are fewer than two
        classes, or a rate is outside [0, 1).
    """
    if not objectives:
        raise ValueError("objectives is empty: name at least one, such as pixels=call('targets.core.objective', …)")
    if "cross_entropy" in objectives:
        raise ValueError("objectives: 'cross_entropy' is the classifier's; choose another name")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    mask.keep(model.grid)  # fails now if the grid does not suit the mask
    head = labels.one(classes, smoothing)
    task = Classify(model, Classifier(model.encoder, classes, dropout, init_scale), {ALONE: head})
    return TwoHeads(task, Reconstruction(model, mask, None, dict(objectives), everywhere=everywhere)).method()
