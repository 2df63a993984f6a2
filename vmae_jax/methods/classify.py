"""Classification of videos: post-pre-training and fine-tuning (VideoMAE, VideoMAE V2)."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.augment.erasing import Erasing
from vmae_jax.augment.mixing import Mixing
from vmae_jax.methods import labels
from vmae_jax.methods.labels import Head
from vmae_jax.models.classifier import Classifier, everything
from vmae_jax.models.frames import frame_features
from vmae_jax.models.pooling import Pool
from vmae_jax.models.variants import Model
from vmae_jax.patches import patchify
from vmae_jax.registry import register
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Params, Term, row_keys, stream

__all__ = ["Classify", "build"]

ALONE = ""  # the name of a head that is the only one


@dataclasses.dataclass(frozen=True)
class Classify:
    """The functions of a classifier; `build` wraps them up as a `Method`."""

    model: Model
    network: Classifier
    heads: Mapping[str, Head]
    erase: Erasing | None = None
    mix: Mixing | None = None

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Fresh parameters: {"encoder": …, "fc_norm" or "pooled": …, "head": …}."""
        self.model.check(batch["video"].shape)
        return self.network.init(stream(key, "classifier"), self.cubes(batch))["params"], None

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Each head's error, averaged over videos; soft where clips were mixed."""
        self.model.check(batch["video"].shape)
        cubes, targets = self.examples(batch, train=context.train)
        return self.judge(self.logits(params, batch, cubes, train=context.train), targets, batch["valid"])

    def examples(self, batch: Batch, *, train: bool, labelled: bool = True) -> tuple[Array, Array]:
        """Normalised cubes [b n p] and targets [b outputs], augmented while training.

        Args:
          train: augment.
          labelled: False looks at no label; all targets are 0.
        """
        valid = jnp.asarray(batch["valid"])
        # A row that only fills the batch up has any label, or none: 0 · NaN would be the gradient of all.
        target = jnp.where(valid[:, None], self.targets(batch) if labelled else self.untold(batch), 0.0)
        if not train or (self.erase is None and self.mix is None):
            return self.cubes(batch), target
        # Noise and blends are of normalised pixels; the model's own normalisation makes them.
        shape, keys = batch["video"].shape, row_keys(batch["seed"])
        video = self.model.normalize(jnp.asarray(batch["video"]).reshape(*shape[:2], -1)).reshape(shape)
        if self.erase is not None:
            video = self.erase(video, keys)
        if self.mix is not None:
            video, target = self.mix(video, target, keys, valid)
        return jnp.asarray(patchify(video, self.model.patch)), target

    def targets(self, batch: Batch) -> Array:
        """The labels of all heads as targets side by side, [b outputs]."""
        return jnp.concatenate([h.target(labels.of_batch(h, batch)) for h in self.heads.values()], axis=-1)

    def untold(self, batch: Batch) -> Array:
        """Targets of clips whose labels nobody looks at."""
        return jnp.zeros((batch["video"].shape[0], self.network.classes))

    def columns(self) -> Iterator[tuple[str, Head, slice]]:
        """The heads: what their terms begin with, and which outputs are theirs."""
        start = 0
        for name, head in self.heads.items():
            yield f"{name}_" if name != ALONE else "", head, slice(start, start := start + head.outputs)

    def logits(self, params: Params, batch: Batch, cubes: Array, *, train: bool) -> Array:
        """The outputs of all heads side by side, [b outputs] float32."""
        keys = stream(row_keys(batch["seed"]), "drop_path") if train else None
        return self.run(params, cubes, keys)

    def judge(self, logits: Array, targets: Array, valid: Array) -> Loss:
        """The loss of outputs against targets, which are finite in rows that are not valid, too."""
        terms: dict[str, Term] = {}
        metrics: dict[str, Mean] = {}
        valid = valid.astype(jnp.float32)
        for prefix, head, part in self.columns():
            error = head.error(logits[:, part], targets[:, part])
            terms[prefix + head.term] = Term((error * valid).sum(), valid.sum(), jnp.float32(head.weight))
            told = head.metrics(logits[:, part], targets[:, part], valid)
            metrics |= {prefix + key: value for key, value in told.items()}
        return Loss(terms, metrics)

    def predict(self, params: Params, batch: Batch) -> Array:
        """The outputs of all heads side by side, [b outputs]."""
        self.model.check(batch["video"].shape)
        return self.run(params, self.cubes(batch))

    def run(self, params: Params, cubes: Array, keys: Array | None = None, *, features: bool = False) -> Any:
        """The outputs of all heads, or the features before them; keys switch drop path and dropout on."""
        return self.network.apply({"params": params}, cubes, keys, method=Classifier.features if features else None)

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """Pooled: as the head sees them, the mean after `fc_norm` or the attentive pool; else the tokens of the end.

        Args:
          layer: the tokens after this many blocks (and their plain mean); None is the end.
        """
        self.model.check(batch["video"].shape)
        cubes = self.cubes(batch)
        if layer is None and pool:
            return self.run(params, cubes, features=True)
        encoder, weights = self.network.encoder, params["encoder"]
        if layer is not None:
            encoder, weights = encoder.shallow(weights, layer)
        encoded: Any = encoder.apply({"params": weights}, cubes, everything(*cubes.shape[:2]))
        tokens = encoded.astype(jnp.float32)[:, encoder.prefix :]
        return tokens.mean(axis=1) if pool else tokens

    def frame_features(self, params: Params, frames: Array, *, layer: int | None = None) -> Array:
        """The encoder's tokens of single pictures (`models.frames`)."""
        return frame_features(self.model, self.network.encoder, params["encoder"], frames, layer=layer)

    def cubes(self, batch: Batch) -> Array:
        """The clips as the encoder wants them, unaugmented."""
        return self.model.normalize(patchify(batch["video"], self.model.patch))


def classifier(
    model: Model,
    classes: int | None,
    dropout: float = 0.0,
    init_scale: float = 0.001,
    smoothing: float = 0.0,
    heads: Mapping[str, Head] | None = None,
    erase: Erasing | None = None,
    mix: Mixing | None = None,
    pool: Pool | None = None,
) -> Classify:
    """The functions of a classifier; the arguments are those of `build`."""
    if (classes is None) == (not heads):
        raise ValueError("give either classes=, for one class of several, or heads=")
    if heads and smoothing:
        raise ValueError("smoothing belongs to the heads where heads are given")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout lies in [0, 1), not {dropout}")
    heads = dict(heads) if heads else {ALONE: labels.one(classes or 0, smoothing)}
    outputs = sum(head.outputs for head in heads.values())
    encoder = model.encoder.clone(final_norm=pool is not None)  # the mean has a norm of its own, after it
    network = Classifier(encoder, outputs, dropout, init_scale, pool=pool)
    return Classify(model, network, heads, erase, mix)


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"classes": given["classes"] and max(given["classes"], 10)}  # of the drawn clips


@register("method", model="model", heads="head", erase="erasing", mix="mixing", pool="pool", smoke=_smoke)
def build(
    model: Model,
    classes: int | None = None,
    dropout: float = 0.0,
    init_scale: float = 0.001,
    smoothing: float = 0.0,
    heads: Mapping[str, Head] | None = None,
    erase: Erasing | None = None,
    mix: Mixing | None = None,
    pool: Pool | None = None,
) -> Method:
    """A classifier as a method.

    Args:
      model: the networks, `models.variants.vit`; only its encoder is used.
      classes: how many, of which each video has one.
      dropout: rate before the head.
      init_scale: factor on the head's first kernel.
      smoothing: label smoothing.
      heads: instead of `classes`, heads by name (`methods.labels`): several classes a video,
        numbers, or several heads, whose outputs stand side by side.
      erase: `augment.erasing.random_erasing`, while training.
      mix: `augment.mixing.mixup_cutmix`, after it; examples of a batch then meet in the loss.
      pool: `models.pooling.attentive` instead of the tokens' mean. With `optimizer.freeze=["encoder"]`
        only the pool and the head are trained: a probe, whose gradient never runs through the encoder.

    Raises:
      ValueError: fewer than two classes, a rate outside [0, 1), both or neither of classes and heads.
    """
    one = classifier(model, classes, dropout, init_scale, smoothing, heads, erase, mix, pool)
    return Method(
        init=one.init,
        loss=one.loss,
        features=one.features,
        frame_features=one.frame_features,
        predict=one.predict,
        group=mix.group if mix is not None else 1,
        suits=mix.size if mix is not None else None,
        check=functools.partial(labels.check, one.heads),
        heads=one.heads,
        supervision=labels.streams(one.heads),
    )
