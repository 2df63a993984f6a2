"""CDFSL-V (Samarasinghe et al. 2023): a classifier of labelled source videos adapts to unlabelled target videos.

    build(model=vit("B", depth=8, …), classes=400, strong=jitter())

A batch mixes both kinds of video, and has two views of each. A clip whose label is -1 is one of the target. The student
learns the labels of the source; of the target, it learns from a strongly augmented view what its teacher, the moving
average of the parameters, predicts from the weakly augmented one. The target's weight follows a curriculum.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vmae_jax.augment.colors import Colors
from vmae_jax.methods import labels
from vmae_jax.methods.classify import Classify, classifier
from vmae_jax.models.variants import Model
from vmae_jax.patches import patchify
from vmae_jax.registry import register
from vmae_jax.scopes import tower
from vmae_jax.spec import ConfigError
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Params, Term, row_keys

__all__ = ["CrossDomain", "build", "curriculum"]


@dataclasses.dataclass(frozen=True)
class CrossDomain:
    """The functions of the method, which `build` returns; the attributes are its arguments."""

    student: Classify
    strong: Colors | None
    temperature: float
    target_weight: float
    slope: float
    turn: float

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the error on labelled clips and the inconsistency on unlabelled ones, each averaged over its clips.

        Metrics: `top1` on labelled clips; `agreement` of student and teacher on unlabelled ones; `teacher_entropy`, the
        least that the inconsistency can be; `labelled`, the share of labelled clips.
        """
        self.student.model.check(batch["video"].shape)
        first, second = (_view(batch, number) for number in (0, 1))
        valid, known = first["valid"] & second["valid"], first["label"] >= 0
        soft = self.taught(context, first["video"])
        cubes = self.seen(first["video"], second, known, train=context.train)
        logits = self.student.logits(params, first, cubes, train=context.train)
        right = jnp.where(known, first["label"], 0)
        log = jax.nn.log_softmax(logits)
        supervised = -jnp.take_along_axis(log, right[:, None], axis=1)[:, 0]
        inconsistent = -(soft * log).sum(axis=-1)
        source, target = ((valid & one).astype(jnp.float32) for one in (known, ~known))
        return Loss(
            {
                "supervised": _term(supervised, source, jnp.float32(1.0)),
                "consistency": _term(inconsistent, target, self.weight(context)),
            },
            {
                "top1": _mean(log.argmax(-1) == right, source),
                "agreement": _mean(log.argmax(-1) == soft.argmax(-1), target),
                "teacher_entropy": _mean(jax.scipy.special.entr(soft).sum(-1), target),
                "labelled": _mean(source, valid.astype(jnp.float32)),
            },
        )

    def weight(self, context: Context) -> Array:
        """Return the weight of the target at this point of the run."""
        share = 1.0 if context.progress is None else context.progress
        return curriculum(share, self.target_weight, self.slope, self.turn)

    def seen(self, weak: Array, second: Batch, known: Bool[Array, "b"], *, train: bool) -> Float[Array, "b n p"]:
        """Return what the student sees: weak views of labelled clips, strong ones of the others.

        Args:
          second: the rows of the second views, whose colours are changed in training.
        """
        model, strong = self.student.model, second["video"]
        if self.strong is not None and train:
            weak = weak.astype(jnp.float32)
            strong = self.strong(strong.astype(jnp.float32) / 255.0, row_keys(second["seed"])) * 255.0
        return model.normalize(patchify(jnp.where(known[:, None, None, None, None], weak, strong), model.patch))

    def taught(self, context: Context, weak: Array) -> Float[Array, "b k"]:
        """Return the sharpened probabilities of the teacher. No gradient flows from them.

        Raises:
          ConfigError: if the context has no average of the parameters.
        """
        if context.average is None:
            raise ConfigError("the loss of CDFSL-V needs its teacher, the average of the parameters")
        model, weights = self.student.model, jax.lax.stop_gradient(context.average)
        with tower("teacher"):
            logits = self.student.run(weights, model.normalize(patchify(weak, model.patch)))
        return jax.lax.stop_gradient(jax.nn.softmax(logits / self.temperature))

    def check(self, batch: Batch) -> None:
        """Raise ConfigError if a clip of a batch has a label that is neither a class nor -1."""
        if "label" not in batch:
            raise ConfigError("the data gives no 'label': set data.labels=True")
        label = np.asarray(batch["label"])
        labels.check(self.student.heads, {**batch, "valid": np.asarray(batch["valid"]) & (label != -1)})


def curriculum(share: Any, weight: float, slope: float, turn: float) -> Array:
    """Return weight · (1 + atan(slope · (share − turn)) / (π/2)), where `share` of the run is done."""
    return jnp.float32(weight) * (1 + jnp.arctan(slope * (jnp.asarray(share, jnp.float32) - turn)) / (jnp.pi / 2))


def _view(batch: Batch, number: int) -> dict[str, Array]:
    """The rows of one of the two views, which alternate."""
    return {
        name: jnp.asarray(batch[name]).reshape(-1, 2, *batch[name].shape[1:])[:, number]
        for name in ("video", "label", "seed", "valid")
    }


def _term(error: Array, counted: Array, weight: Array) -> Term:
    return Term((error * counted).sum(), counted.sum(), weight)


def _mean(value: Array, counted: Array) -> Mean:
    return Mean((value * counted).sum(), counted.sum())


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"classes": max(given["classes"], 10)}  # of the drawn clips


@register("method", model="model", strong="colors", smoke=_smoke)
def build(
    model: Model,
    classes: int,
    strong: Colors | None = None,
    temperature: float = 0.1,
    target_weight: float = 0.05,
    slope: float = 10.0,
    turn: float = 0.05,
    init_scale: float = 1.0,
) -> Method:
    """Return the adaptation of a classifier to unlabelled videos, as a method.

    The teacher is the average of the parameters, `train.ema_decay`.

    Args:
      model: the network, `models.variants.vit`, of which only the encoder is used.
      classes: of the labelled videos.
      strong: changes of colours in the second view of unlabelled videos, such as `augment.colors.jitter`.
      temperature: of the teacher; its logits are divided by it, the student's are not.
      target_weight, slope, turn: of the `curriculum`, which is the weight of unlabelled videos; with a slope of 0 it is
        `target_weight` throughout.
      init_scale: a factor on the initial kernel of the head.

    Raises:
      ValueError: if there are fewer than two classes, or a number is out of range.
    """
    finite = all(abs(value) < math.inf for value in (temperature, target_weight, slope))
    if not finite or temperature <= 0 or target_weight < 0 or not 0 <= turn <= 1:
        given = f"temperature={temperature}, target_weight={target_weight}, slope={slope}, turn={turn}"
        raise ValueError(f"{given}: finite numbers, above 0, at least 0, any, in [0, 1]")
    student = classifier(model, classes, init_scale=init_scale)
    one = CrossDomain(student, strong, temperature, target_weight, slope, turn)
    return Method(
        init=student.init,
        loss=one.loss,
        features=student.features,
        frame_features=student.frame_features,
        predict=student.predict,
        group=2,
        views=2,
        check=one.check,
        heads=student.heads,
        supervision=("label",),
        averaged=True,
    )
