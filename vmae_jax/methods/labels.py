"""What a supervised head predicts: one class, several, or numbers.

A `Head` defines how labels become targets and the loss of outputs against them. A classifier has one
or more in one linear layer: `methods.classify.build(heads={"verb": …, "noun": …})`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vmae_jax.registry import register
from vmae_jax.spec import ConfigError
from vmae_jax.types import Mean, Output

__all__ = ["Head", "check", "many", "numbers", "one"]


@dataclasses.dataclass(frozen=True)
class Head(Output):
    """A supervised head: an `Output` and how it is trained.

    Attributes:
      weight: the weight of its loss.
      smoothing: the share of label smoothing.
      smooth_to: the value to which the labels of `many` classes are smoothed.
    """

    weight: float = 1.0
    smoothing: float = 0.0
    smooth_to: float = 0.5

    def target(self, label: Array) -> Array:
        """Return labels as float [b outputs]: indices become one-hot and smoothed, soft labels stay as they are."""
        try:
            truth = self.truth(label)  # NaN if a label is no class: so is the loss, and the step is refused
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if self.kind == "many" or (self.kind == "one" and self.numbered(label)):
            off = self.smoothing / self.outputs if self.kind == "one" else self.smoothing * self.smooth_to
            return truth * (1.0 - self.smoothing) + off
        return truth

    def error(self, outputs: Array, target: Array) -> Array:
        """Return the loss of each example, [b]: cross-entropies, or the mean squared error."""
        if self.kind == "one":
            return -(target * jax.nn.log_softmax(outputs, axis=-1)).sum(axis=-1)
        if self.kind == "many":
            positive, negative = jax.nn.log_sigmoid(outputs), jax.nn.log_sigmoid(-outputs)
            return -(target * positive + (1.0 - target) * negative).mean(axis=-1)
        return jnp.square(outputs - target).mean(axis=-1)

    def divergence(self, outputs: Array, teacher: Array, temperature: float = 1.0) -> Array:
        """Return the divergence of outputs from a teacher's for each example, [b].

        Classes: temperature² · KL(teacher ‖ outputs) at that temperature, of the softmaxes, or the mean of
        those of the sigmoids (each class is a Bernoulli draw). Numbers: the mean squared error, without temperature.
        """
        if self.kind == "numbers":
            return jnp.square(outputs - teacher).mean(axis=-1)
        q, p = outputs / temperature, teacher / temperature
        if self.kind == "one":
            log_p, log_q = jax.nn.log_softmax(p, axis=-1), jax.nn.log_softmax(q, axis=-1)
            return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)
        log_p, log_q = (jax.nn.log_sigmoid(jnp.stack([x, -x])) for x in (p, q))  # of "is the class" and "is not"
        return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=0).mean(axis=-1)

    def metrics(self, outputs: Array, target: Array, valid: Array) -> dict[str, Mean]:
        """Return metrics: "top1" if an example has one class."""
        if self.kind != "one":
            return {}
        hit = (outputs.argmax(axis=-1) == target.argmax(axis=-1)) * valid
        return {"top1": Mean(hit.sum(), valid.sum())}

    @property
    def term(self) -> str:
        """The name of its error."""
        return {"one": "cross_entropy", "many": "binary_cross_entropy", "numbers": "square"}[self.kind]

    @property
    def distilled(self) -> str:
        """The name of its divergence."""
        return "teacher_square" if self.kind == "numbers" else "kl"


@register("head", smoke=lambda given: {"classes": max(given["classes"], 10), "label": "label"})
def one(classes: int, smoothing: float = 0.0, label: str = "label", weight: float = 1.0) -> Head:
    """One class out of several, by softmax. Labels are indices or distributions.

    Args:
      classes: the number of classes.
      smoothing: the share of a label that is spread over all classes.
      label: the key of the labels in a batch.
      weight: the weight of the head's loss.

    Raises:
      ValueError: if there are fewer than two classes or a number is outside its range.
    """
    return _head(Head("one", classes, label, weight, smoothing), least=2)


@register("head", smoke=lambda given: {"classes": max(given["classes"], 10), "label": "label"})
def many(
    classes: int, smoothing: float = 0.0, label: str = "label", weight: float = 1.0, smooth_to: float = 0.5
) -> Head:
    """Any number of classes at once, each by a sigmoid. Labels are 0 or 1 for every class.

    The loss is the mean over classes; a weight of `classes` makes it their sum.

    Args:
      classes: the number of classes.
      smoothing: the share of a label that is replaced by `smooth_to`.
      label, weight: as of `one`.
      smooth_to: 0.5, or 1 / classes as in Scenic.

    Raises:
      ValueError: if there is no class or a number is outside its range.
    """
    if not 0 <= smooth_to <= 1:
        raise ValueError(f"smooth_to must be in [0, 1], got {smooth_to}")
    return dataclasses.replace(_head(Head("many", classes, label, weight, smoothing)), smooth_to=smooth_to)


@register("head", smoke={"outputs": 1, "label": "label"})
def numbers(outputs: int = 1, label: str = "label", weight: float = 1.0) -> Head:
    """Regression of numbers by the mean squared error.

    Raises:
      ValueError: if there is no output or a number is outside its range.
    """
    return _head(Head("numbers", outputs, label, weight))


def check(heads: Mapping[str, Head], batch: Mapping[str, Any]) -> None:
    """Check the labels of a batch on the host, before they go to a device.

    Raises:
      ConfigError: if a head has no labels in the batch, or one that is none of its classes.
    """
    for head in heads.values():
        if head.label not in batch:
            raise ConfigError(_absent(head, batch))
        label = np.asarray(batch[head.label])
        if head.kind == "numbers" or not head.numbered(label):
            continue
        wrong = np.flatnonzero(((label < 0) | (label >= head.outputs)) & np.asarray(batch["valid"]))
        if len(wrong):
            raise ConfigError(
                f"video {int(batch['index'][wrong[0]])} of the data has {head.label} {int(label[wrong[0]])}, but there "
                f"are {head.outputs} classes, 0 to {head.outputs - 1}: set the method's classes, or correct the labels"
            )


def streams(heads: Mapping[str, Head]) -> tuple[str, ...]:
    """Return the streams of the batch that hold the labels of these heads, each once."""
    return tuple(dict.fromkeys(head.label for head in heads.values()))


def of_batch(head: Head, batch: Mapping[str, Array]) -> Array:
    """Return the labels of a head; raise ConfigError if the batch has none."""
    if head.label not in batch:
        raise ConfigError(_absent(head, batch))
    return batch[head.label]


def _absent(head: Head, batch: Mapping[str, object]) -> str:
    hint = ": set data.labels=True" if head.label == "label" else ""
    return f"the data gives no {head.label!r}, only {', '.join(sorted(batch))}{hint}"


def _head(head: Head, least: int = 1) -> Head:
    if head.outputs < least:
        raise ValueError(f"a classifier needs at least {least} classes, got {head.outputs}")
    if not 0 <= head.smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {head.smoothing}")
    if head.weight <= 0:
        raise ValueError(f"the weight of a head must be above 0, got {head.weight}")
    return head
