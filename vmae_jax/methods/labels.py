"""What a supervised head predicts: one class, several, or numbers.

A `Head` says how labels become targets and how far outputs are from them. A classifier has one
or more, side by side in one linear layer: `methods.classify.build(heads={"verb": …, "noun": …})`.
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
      weight: of its part of the loss.
      smoothing: of the labels.
    """

    weight: float = 1.0
    smoothing: float = 0.0

    def target(self, label: Array) -> Array:
        """Labels as float [b outputs]: indices one-hot and smoothed, soft ones as they are."""
        try:
            truth = self.truth(label)  # NaN where a label is no class: so is the loss, and the step refuses it
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if self.kind == "many" or (self.kind == "one" and self.numbered(label)):
            return truth * (1.0 - self.smoothing) + self.smoothing / (self.outputs if self.kind == "one" else 2)
        return truth

    def error(self, outputs: Array, target: Array) -> Array:
        """The loss of each example, [b]: cross-entropies, or the mean square."""
        if self.kind == "one":
            return -(target * jax.nn.log_softmax(outputs, axis=-1)).sum(axis=-1)
        if self.kind == "many":
            positive, negative = jax.nn.log_sigmoid(outputs), jax.nn.log_sigmoid(-outputs)
            return -(target * positive + (1.0 - target) * negative).mean(axis=-1)
        return jnp.square(outputs - target).mean(axis=-1)

    def divergence(self, outputs: Array, teacher: Array, temperature: float = 1.0) -> Array:
        """How far outputs are from a teacher's, of each example, [b].

        Classes: temperature² · KL(teacher ‖ outputs) at that temperature, of the softmaxes, or the mean of
        the sigmoids' (each class a Bernoulli draw). Numbers: the mean square, which has no temperature.
        """
        if self.kind == "numbers":
            return jnp.square(outputs - teacher).mean(axis=-1)
        q, p = outputs / temperature, teacher / temperature
        if self.kind == "one":
            log_p, log_q = jax.nn.log_softmax(p, axis=-1), jax.nn.log_softmax(q, axis=-1)
            return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)
        log_p, log_q = (jax.nn.log_sigmoid(jnp.stack([x, -x])) for x in (p, q))  # that it is the class, and is not
        return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=0).mean(axis=-1)

    def metrics(self, outputs: Array, target: Array, valid: Array) -> dict[str, Mean]:
        """Means to record: "top1" where there is one class."""
        if self.kind != "one":
            return {}
        hit = (outputs.argmax(axis=-1) == target.argmax(axis=-1)) * valid
        return {"top1": Mean(hit.sum(), valid.sum())}

    @property
    def term(self) -> str:
        """What its error is called."""
        return {"one": "cross_entropy", "many": "binary_cross_entropy", "numbers": "square"}[self.kind]

    @property
    def distilled(self) -> str:
        """What its divergence is called."""
        return "teacher_square" if self.kind == "numbers" else "kl"


@register("head", smoke=lambda given: {"classes": max(given["classes"], 10), "label": "label"})
def one(classes: int, smoothing: float = 0.0, label: str = "label", weight: float = 1.0) -> Head:
    """One class of several, softmax; labels are indices, or distributions.

    Args:
      classes: how many.
      smoothing: the share of a label that is spread over all classes.
      label: the key of the batch.
      weight: of the head's part of the loss.

    Raises:
      ValueError: fewer than two classes, a number outside its range.
    """
    return _head(Head("one", classes, label, weight, smoothing), least=2)


@register("head", smoke=lambda given: {"classes": max(given["classes"], 10), "label": "label"})
def many(classes: int, smoothing: float = 0.0, label: str = "label", weight: float = 1.0) -> Head:
    """Any number of classes at once, a sigmoid each; labels are 0 or 1 for every class.

    Raises:
      ValueError: no class, a number outside its range.
    """
    return _head(Head("many", classes, label, weight, smoothing))


@register("head", smoke={"outputs": 1, "label": "label"})
def numbers(outputs: int = 1, label: str = "label", weight: float = 1.0) -> Head:
    """Regression: the mean square error of numbers.

    Raises:
      ValueError: no output, a number outside its range.
    """
    return _head(Head("numbers", outputs, label, weight))


def check(heads: Mapping[str, Head], batch: Mapping[str, Any]) -> None:
    """Looks at the labels of a batch on the host, before they go to a device.

    Raises:
      ConfigError: no label of a head's name, or one that is no class of it.
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
    """The head's labels. Raises ConfigError: there are none."""
    if head.label not in batch:
        raise ConfigError(_absent(head, batch))
    return batch[head.label]


def _absent(head: Head, batch: Mapping[str, object]) -> str:
    hint = ": set data.labels=True" if head.label == "label" else ""
    return f"the data gives no {head.label!r}, only {', '.join(sorted(batch))}{hint}"


def _head(head: Head, least: int = 1) -> Head:
    if head.outputs < least:
        raise ValueError(f"a classifier needs at least {least} classes, not {head.outputs}")
    if not 0 <= head.smoothing < 1:
        raise ValueError(f"smoothing lies in [0, 1), not {head.smoothing}")
    if head.weight <= 0:
        raise ValueError(f"a head's weight is above 0, not {head.weight}")
    return head
