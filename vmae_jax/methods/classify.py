"""Classification of videos: post-pre-training and fine-tuning (VideoMAE, VideoMAE V2)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.models.classifier import Classifier, everything
from vmae_jax.models.variants import Model
from vmae_jax.patches import patchify
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Params, Term, row_keys, stream

__all__ = ["Classify", "build"]


@dataclasses.dataclass(frozen=True)
class Classify:
    """The functions of a classifier; `build` wraps them up as a `Method`."""

    model: Model
    network: Classifier
    smoothing: float

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Fresh parameters: {"encoder": …, "fc_norm": …, "head": …}."""
        self.model.check(batch["video"].shape)
        return self.network.init(stream(key, "classifier"), self._cubes(batch))["params"], None

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Softmax cross-entropy with (smoothed or soft) labels, averaged over videos."""
        self.model.check(batch["video"].shape)
        keys = stream(row_keys(batch["seed"]), "drop_path") if context.train else None
        logits = self.network.apply({"params": params}, self._cubes(batch), keys)
        target = self._target(batch["label"])
        valid = batch["valid"].astype(jnp.float32)
        error = -(target * jax.nn.log_softmax(logits, axis=-1)).sum(axis=-1)
        hit = (logits.argmax(axis=-1) == target.argmax(axis=-1)) * valid
        term = Term((error * valid).sum(), valid.sum(), jnp.float32(1.0))
        return Loss({"cross_entropy": term}, {"top1": Mean(hit.sum(), valid.sum())})

    def predict(self, params: Params, batch: Batch) -> Array:
        """Logits, [b classes]."""
        self.model.check(batch["video"].shape)
        return self.network.apply({"params": params}, self._cubes(batch))

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """Pooled: the mean of the tokens after `fc_norm`; else the tokens of the last block.

        Args:
          layer: the tokens after this many blocks (and their plain mean); None is the end.
        """
        self.model.check(batch["video"].shape)
        cubes = self._cubes(batch)
        if layer is None and pool:
            return self.network.apply({"params": params}, cubes, method=Classifier.features)
        encoder, weights = self.network.encoder, params["encoder"]
        if layer is not None:
            encoder, weights = encoder.shallow(weights, layer)
        tokens = encoder.apply({"params": weights}, cubes, everything(*cubes.shape[:2])).astype(jnp.float32)
        return tokens.mean(axis=1) if pool else tokens

    def _cubes(self, batch: Batch) -> Array:
        return self.model.normalize(patchify(batch["video"], self.model.patch))

    def _target(self, label: Array) -> Array:
        """Labels as distributions: soft ones as they are, indices one-hot and smoothed."""
        if label.ndim == 2:
            return label.astype(jnp.float32)
        hot = jax.nn.one_hot(label, self.network.classes)
        return hot * (1.0 - self.smoothing) + self.smoothing / self.network.classes


def build(
    model: Model,
    classes: int,
    dropout: float = 0.0,
    init_scale: float = 0.001,
    smoothing: float = 0.0,
) -> Method:
    """A classifier as a method.

    Args:
      model: the networks, `models.variants.vit`; only its encoder is used.
      classes: how many.
      dropout: rate before the head.
      init_scale: factor on the head's first kernel.
      smoothing: label smoothing.

    Raises:
      ValueError: fewer than two classes, a rate outside [0, 1).
    """
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, not {classes}")
    for what, rate in (("dropout", dropout), ("smoothing", smoothing)):
        if not 0 <= rate < 1:
            raise ValueError(f"{what} lies in [0, 1), not {rate}")
    network = Classifier(model.encoder.clone(final_norm=False), classes, dropout, init_scale)
    one = Classify(model, network, smoothing)
    return Method(init=one.init, loss=one.loss, features=one.features, predict=one.predict)
