"""A linear classifier of a frozen encoder's class token, trained on augmented images: the linear probe of MAE.

    build(model=vit("B", frames=1, tubelet=1, prefix=1, …), classes=1000)

The encoder is never differentiated. Batch norm without scale and shift precedes the head (He et al. 2021), by the
statistics of the global batch in training, and by running ones, which are parameters, everywhere else.
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp

from vmae_jax.methods import labels
from vmae_jax.methods.classify import ALONE, Classify
from vmae_jax.models.classifier import LinearClassifier
from vmae_jax.models.variants import Model
from vmae_jax.registry import register
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Params

__all__ = ["Linear", "build"]


@dataclasses.dataclass(frozen=True)
class Linear(Classify):
    """The functions of the probe, which `build` returns as a `Method`.

    Attributes:
      momentum: the share of a batch's statistics in the running ones.
    """

    momentum: float = 0.1

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the class tokens of the clips, for `compare`; no term is of one clip alone."""
        self.model.check(batch["video"].shape)
        cubes, targets = self.examples(batch, train=context.train)
        token = self.network.apply({"params": params}, cubes, method="token")
        return Loss({}, rows={"token": token, "target": targets, "valid": jnp.asarray(batch["valid"], bool)})

    def compare(self, params: Params, rows: Any, context: Context) -> Loss:
        """Return the error of the head over the global batch, and the batch's statistics for `statistics`."""
        token, valid, carry = rows["token"], rows["valid"], None
        if context.train:
            weight = valid.astype(jnp.float32)[:, None]
            count = weight.sum()
            sums = (token * weight).sum(axis=0)
            mean = sums / jnp.maximum(count, 1.0)
            squares = (jnp.square(token - mean) * weight).sum(axis=0)
            params = {**params, "norm": {"mean": mean, "variance": squares / jnp.maximum(count, 1.0)}}
            # As in PyTorch, batches are normalised by the biased variance and the average is of the unbiased one.
            carry = {"mean": Mean(sums, count), "variance": Mean(squares, count - 1.0)}
        logits: Any = self.network.apply({"params": params}, token, method="scores")
        return dataclasses.replace(self.judge(logits, rows["target"], valid), carry=carry)

    def statistics(self, params: Params, carry: Any, context: Context) -> Params:
        """Return the parameters with running statistics that have moved towards those of a batch."""
        del context
        moved = {}
        for name, kept in params["norm"].items():
            one = carry[name]
            step = self.momentum * (one.total / jnp.maximum(one.count, 1.0) - kept)
            moved[name] = jnp.where(one.count > 0, kept + step, kept)
        return {**params, "norm": moved}


def _smoke(given: Any) -> dict[str, Any]:
    return {"classes": max(given["classes"], 10)}  # of the drawn clips


@register("method", model="model", smoke=_smoke)
def build(model: Model, classes: int, init_scale: float = 0.5, momentum: float = 0.1) -> Method:
    """Return a linear probe as a method; train it with `optimizer.freeze=["encoder", "norm"]`.

    Args:
      model: the network, `models.variants.vit` with a class token, of which only the encoder is used.
      classes: the number of classes, of which each image or clip has one.
      init_scale: a factor on the initial kernel of the head, whose deviation is 0.02 times this.
      momentum: the share of a batch in the running mean and variance.

    Raises:
      ValueError: if the model has no class token or has levels, there are fewer than two classes, or the momentum is
        not in (0, 1].
    """
    if model.encoder.prefix != 1 or model.encoder.levels:
        raise ValueError("methods.linear reads the class token: the model needs prefix=1 and no levels")
    if not 0 < momentum <= 1:
        raise ValueError(f"momentum must be in (0, 1], got {momentum}")
    heads = {ALONE: labels.one(classes)}
    one = Linear(model, LinearClassifier(model.encoder, classes, 0.0, init_scale), heads, momentum=momentum)
    return Method(
        init=one.init,
        loss=one.loss,
        global_loss=one.compare,
        statistics=one.statistics,
        features=one.features,
        frame_features=one.frame_features,
        predict=one.predict,
        check=functools.partial(labels.check, heads),
        heads=heads,
        supervision=labels.streams(heads),
    )
