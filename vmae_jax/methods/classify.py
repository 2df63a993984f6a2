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
    """The functions of a classifier, which `build` returns as a `Method`."""

    model: Model
    network: Classifier
    heads: Mapping[str, Head]
    erase: Erasing | None = None
    mix: Mixing | None = None

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "fc_norm" or "pooled": …, "head": …}."""
        self.model.check(batch["video"].shape)
        return self.network.init(stream(key, "classifier"), self.cubes(batch))["params"], None

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return each head's error, averaged over videos. Targets of mixed clips are soft."""
        self.model.check(batch["video"].shape)
        cubes, targets = self.examples(batch, train=context.train)
        return self.judge(self.logits(params, batch, cubes, train=context.train), targets, batch["valid"])

    def examples(self, batch: Batch, *, train: bool, labelled: bool = True) -> tuple[Array, Array]:
        """Return normalised cubes [b n p] and targets [b outputs].

        Args:
          train: whether to augment them.
          labelled: whether to read labels; otherwise all targets are 0.
        """
        valid = jnp.asarray(batch["valid"])
        # A row that only pads the batch may have any label, or none, and 0 · NaN would make all gradients NaN.
        target = jnp.where(valid[:, None], self.targets(batch) if labelled else self.untold(batch), 0.0)
        if not train or (self.erase is None and self.mix is None):
            return self.cubes(batch), target
        # Noise and blends are of normalised pixels, so the model's normalisation comes first.
        shape, keys = batch["video"].shape, row_keys(batch["seed"])
        video = self.model.normalize(jnp.asarray(batch["video"]).reshape(*shape[:2], -1)).reshape(shape)
        if self.erase is not None:
            video = self.erase(video, keys)
        if self.mix is not None:
            video, target = self.mix(video, target, keys, valid)
        return jnp.asarray(patchify(video, self.model.patch)), target

    def targets(self, batch: Batch) -> Array:
        """Return the labels of all heads as concatenated targets, [b outputs]."""
        return jnp.concatenate([h.target(labels.of_batch(h, batch)) for h in self.heads.values()], axis=-1)

    def untold(self, batch: Batch) -> Array:
        """Return zeros, the targets of clips whose labels are not used."""
        return jnp.zeros((batch["video"].shape[0], self.network.classes))

    def columns(self) -> Iterator[tuple[str, Head, slice]]:
        """Return each head with the prefix of its terms' names and its slice of the outputs."""
        start = 0
        for name, head in self.heads.items():
            yield f"{name}_" if name != ALONE else "", head, slice(start, start := start + head.outputs)

    def logits(self, params: Params, batch: Batch, cubes: Array, *, train: bool) -> Array:
        """Return the concatenated outputs of all heads, [b outputs] float32."""
        keys = stream(row_keys(batch["seed"]), "drop_path") if train else None
        return self.run(params, cubes, keys)

    def judge(self, logits: Array, targets: Array, valid: Array) -> Loss:
        """Return the loss of outputs against targets, which are finite even in rows that are not valid."""
        terms: dict[str, Term] = {}
        metrics: dict[str, Mean] = {}
        valid = valid.astype(jnp.float32)
        for prefix, head, part in self.columns():
            error = head.error(logits[:, part], targets[:, part])
            terms[prefix + head.term] = Term((error * valid).sum(), valid.sum(), jnp.float32(head.weight))
            found = head.metrics(logits[:, part], targets[:, part], valid)
            metrics |= {prefix + key: value for key, value in found.items()}
        return Loss(terms, metrics)

    def predict(self, params: Params, batch: Batch) -> Array:
        """Return the concatenated outputs of all heads, [b outputs]."""
        self.model.check(batch["video"].shape)
        return self.run(params, self.cubes(batch))

    def run(self, params: Params, cubes: Array, keys: Array | None = None, *, features: bool = False) -> Any:
        """Return the outputs of all heads, or the features before them. Keys switch on drop path and dropout."""
        return self.network.apply({"params": params}, cubes, keys, method="features" if features else None)

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """Return the pooled features that the heads read (by the mean and `fc_norm`, or attention), or all tokens.

        Args:
          layer: take the tokens after this many blocks, pooled by their plain mean; None: after the last one.
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
        """Return the clips as cubes for the encoder, unaugmented."""
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
    """Return the functions of a classifier, given the arguments of `build`."""
    if (classes is None) == (not heads):
        raise ValueError("give either classes= (each video has one class) or heads=")
    if heads and smoothing:
        raise ValueError("with heads=, set smoothing in each head")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    heads = dict(heads) if heads else {ALONE: labels.one(classes or 0, smoothing)}
    outputs = sum(head.outputs for head in heads.values())
    encoder = model.encoder.clone(final_norm=pool is not None)  # the mean is followed by a norm
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
    """Return a classifier as a method.

    Args:
      model: the network, `models.variants.vit`, of which only the encoder is used.
      classes: the number of classes, of which each video has one.
      dropout: the rate before the head.
      init_scale: a factor on the initial kernel of the head.
      smoothing: label smoothing.
      heads: instead of `classes`, heads by name (`methods.labels`), for several classes per video, for
        numbers, or for several predictions, whose outputs are concatenated.
      erase: `augment.erasing.random_erasing`, in training.
      mix: `augment.mixing.mixup_cutmix`, after `erase`, in training; it blends clips of a batch.
      pool: `models.pooling.attentive` instead of the tokens' mean. With `optimizer.freeze=["encoder"]`
        this is a probe: only the pool and the head are trained, and no gradient runs through the encoder.

    Raises:
      ValueError: if there are fewer than two classes, a rate is outside [0, 1), or both or neither of classes and
        heads are given.
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
