"""Distillation: a small classifier learns the outputs of a large one, head by head (Hinton et al. 2015).

VideoMAE V2 distils its giant into S and B by the KL divergence of their logits; its code is not
published, so temperature and weights are left to the config.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.augment.erasing import Erasing
from vmae_jax.augment.mixing import Mixing
from vmae_jax.methods import labels
from vmae_jax.methods.classify import Classify, classifier
from vmae_jax.methods.labels import Head
from vmae_jax.models.classifier import Classifier
from vmae_jax.models.layers import Dense
from vmae_jax.models.pooling import Pool
from vmae_jax.models.variants import Model
from vmae_jax.patches import patchify, unpatchify
from vmae_jax.registry import register
from vmae_jax.scopes import tower
from vmae_jax.spec import ConfigError
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Params, Term, row_keys, stream

__all__ = ["Distill", "build"]


@dataclasses.dataclass(frozen=True)
class Distill:
    """The functions of distillation. The teacher's parameters are `frozen["teacher"]`."""

    student: Classify
    teacher: Classify
    temperature: float
    weight: float
    label_weight: float
    feature_weight: float

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return the student's parameters, and {"match": …} if features are matched."""
        params, _ = self.student.init(key, batch)
        if self.feature_weight:
            width = jnp.zeros((1, self.student.model.encoder.width))
            params = {**params, "match": self._match().init(stream(key, "match"), width)["params"]}
        return params, None

    def frozen(self, key: Array, batch: Batch) -> Params:
        """Return initial parameters of the teacher, {"teacher": …}, which `init_from` replaces."""
        return {"teacher": self.teacher.init(stream(key, "teacher"), batch)[0]}

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the divergence of the student's heads from the teacher's (`Head.divergence`) and the other terms.

        Both networks see the same augmented clips. Labels are only read if `label_weight` is above 0.

        Raises:
          ConfigError: if the context has no teacher.
        """
        if not context.frozen or "teacher" not in context.frozen:
            raise ConfigError("the loss of distillation needs its teacher; evaluate with eval.multiview instead")
        self.student.model.check(batch["video"].shape)
        cubes, targets = self.student.examples(batch, train=context.train, labelled=self.label_weight > 0)
        keys = stream(row_keys(batch["seed"]), "drop_path") if context.train else None
        mine = self.student.run(params, cubes, keys, features=True)
        logits: Any = self.student.network.apply({"params": params}, mine, keys, method=Classifier.outputs)
        known = jax.lax.stop_gradient(context.frozen["teacher"])
        with tower("teacher"):
            their_features = self.teacher.run(known, self._recut(cubes), features=True)
            theirs: Any = self.teacher.network.apply({"params": known}, their_features, method=Classifier.outputs)
        valid = batch["valid"].astype(jnp.float32)
        # The teacher's output for rows that do not count may be anything, and 0 · NaN would make all gradients NaN.
        theirs, their_features = (jnp.where(valid[:, None] > 0, a, 0.0) for a in (theirs, their_features))
        result = self._learned(logits, theirs, valid)
        terms, metrics = result.terms, result.metrics
        if self.label_weight:
            judged, scale = self.student.judge(logits, targets, batch["valid"]), jnp.float32(self.label_weight)
            terms |= {name: dataclasses.replace(t, weight=t.weight * scale) for name, t in judged.terms.items()}
            metrics |= judged.metrics
        if self.feature_weight:
            # The distance of the teacher's pooled features from a linear map of the student's.
            mapped: Any = self._match().apply({"params": params["match"]}, mine)
            error = jnp.square(mapped - their_features).mean(axis=-1)
            terms["features"] = Term((error * valid).sum(), valid.sum(), jnp.float32(self.feature_weight))
        return Loss(terms, metrics)

    def _learned(self, logits: Array, theirs: Array, valid: Array) -> Loss:
        """Return the terms of the teacher's outputs, and how often both networks predict the same class."""
        terms: dict[str, Term] = {}
        metrics: dict[str, Mean] = {}
        for prefix, head, part in self.student.columns():
            error = head.divergence(logits[:, part], theirs[:, part], self.temperature)
            weight = jnp.float32(self.weight * head.weight)
            terms[prefix + head.distilled] = Term((error * valid).sum(), valid.sum(), weight)
            if head.kind == "one":
                same = (logits[:, part].argmax(axis=-1) == theirs[:, part].argmax(axis=-1)) * valid
                metrics[f"{prefix}agreement"] = Mean(same.sum(), valid.sum())
        return Loss(terms, metrics)

    def predict(self, params: Params, batch: Batch) -> Array:
        """Return the student's logits."""
        return self.student.predict(params, batch)

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """Return the student's features, as `methods.classify` does."""
        return self.student.features(params, batch, layer=layer, pool=pool)

    def _recut(self, cubes: Array) -> Array:
        """Return the student's pixels in cubes of the teacher's size (ViT-g: 14 pixels, the others: 16)."""
        mine, theirs = self.student.model, self.teacher.model
        if mine.patch == theirs.patch:
            return cubes
        return jnp.asarray(patchify(unpatchify(cubes, mine.grid, mine.patch), theirs.patch))

    def _match(self) -> Dense:
        return Dense(self.teacher.model.encoder.width, ("embed", None))


@register(
    "method",
    model="model",
    teacher="model",
    erase="erasing",
    mix="mixing",
    heads="head",
    pool="pool",
    teacher_pool="pool",
)
def build(
    model: Model,
    teacher: Model,
    classes: int | None = None,
    dropout: float = 0.0,
    init_scale: float = 0.001,
    smoothing: float = 0.0,
    erase: Erasing | None = None,
    mix: Mixing | None = None,
    temperature: float = 1.0,
    weight: float = 1.0,
    label_weight: float = 0.0,
    feature_weight: float = 0.0,
    heads: Mapping[str, Head] | None = None,
    pool: Pool | None = None,
    teacher_pool: Pool | None = None,
) -> Method:
    """Return distillation as a method. `init_from` can set "params" and must set "frozen/teacher".

    Args:
      model: the student's networks, `models.variants.vit`.
      teacher: the teacher's, a classifier with the same classes or heads, on the same clips.
      classes: the number of classes.
      dropout, init_scale, smoothing, erase, mix: those of the student, as in `methods.classify.build`.
      temperature: the temperature of the softmaxes and sigmoids of both.
      weight: the weight of the divergence, multiplied by that of each head.
      label_weight: the weight of the error against the labels; with 0, none are needed.
      feature_weight: the weight of matching the pooled features by a learned linear map; 0 omits it.
      heads: instead of `classes`, the heads of both, as in `methods.classify.build`. With several classes per
        video each sigmoid is matched; numbers are matched by their squared error.
      pool, teacher_pool: the pools of student and teacher, instead of the tokens' mean.

    Raises:
      ValueError: if both or neither of classes and heads are given, teacher and student take different clips, or
        a number is outside its range.
    """
    if temperature <= 0 or weight <= 0 or min(label_weight, feature_weight) < 0:
        raise ValueError("temperature and weight must be above 0, label_weight and feature_weight at least 0")
    if smoothing and not label_weight:
        raise ValueError("smoothing changes labels, which are not used: set label_weight, or leave smoothing at 0")
    if (model.video_shape, model.mean, model.std) != (teacher.video_shape, teacher.mean, teacher.std):
        raise ValueError(
            f"teacher and student see the same clips, normalised alike; the teacher takes {teacher.video_shape}, "
            f"the student {model.video_shape}"
        )
    student = classifier(model, classes, dropout, init_scale, smoothing, heads, erase, mix, pool)
    one = Distill(student, classifier(teacher, classes, heads=heads, pool=teacher_pool), temperature, weight,
                  label_weight, feature_weight)  # fmt: skip
    return Method(
        init=one.init,
        loss=one.loss,
        features=one.features,
        frame_features=one.student.frame_features,
        predict=one.predict,
        group=mix.group if mix is not None else 1,
        suits=mix.size if mix is not None else None,
        frozen=one.frozen,
        check=functools.partial(labels.check, student.heads) if label_weight else None,
        supervision=labels.streams(student.heads) if label_weight else (),
        heads=student.heads,
    )
