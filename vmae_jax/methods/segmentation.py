"""Temporal segmentation: which classes every frame of a clip shows, several at once or none (Ego-Only's second stage).

    build(model=vit("L"), heads={"actions": call("methods.segmentation.actions", classes=110)})

The targets are a stream of the loader, `data.streams.segments.frame_labels`, of the same name as the head's `label`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vmae_jax.methods.encoding import EncoderFeatures
from vmae_jax.models.segmenter import Segmenter
from vmae_jax.models.variants import Model
from vmae_jax.patches import patchify
from vmae_jax.registry import register
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Output, Params, Term, row_keys, stream

__all__ = ["Actions", "Segmentation", "actions", "build"]


@dataclasses.dataclass(frozen=True)
class Actions:
    """A head of `classes` sigmoids for each frame; see `actions`."""

    classes: int
    label: str
    weight: float
    gamma: float
    alpha: float | None

    def error(self, logits: Float[Array, "b t k"], shown: Bool[Array, "b t k"]) -> Float[Array, "b"]:
        """Return the loss of each clip, the mean over frames and classes."""
        right, wrong = (jax.nn.log_sigmoid(jnp.where(shown, sign * logits, -sign * logits)) for sign in (1.0, -1.0))
        error = -right * jnp.exp(self.gamma * wrong) if self.gamma else -right
        if self.alpha is not None:
            error = error * jnp.where(shown, self.alpha, 1.0 - self.alpha)
        return error.mean(axis=(1, 2))


@register("frame_head", smoke=lambda given: {"classes": max(given["classes"], 5)})  # of drawn clips
def actions(
    classes: int, label: str = "actions", weight: float = 1.0, gamma: float = 0.0, alpha: float | None = None
) -> Actions:
    """Any number of classes of each frame, each by a sigmoid, with the focal loss (Lin et al. 2017) as an option.

    Args:
      classes: the number of classes.
      label: the stream of the targets, `data.streams.segments.frame_labels` of as many classes.
      weight: the weight of the head's loss.
      gamma: the exponent by which decisions that are already right count less; 0 is the plain cross-entropy.
      alpha: the weight of decisions whose class is shown, that of others being 1 - alpha; None weights none.

    Raises:
      ValueError: if a number is out of range.
    """
    if classes < 1 or weight <= 0 or gamma < 0 or not (alpha is None or 0 < alpha < 1):
        raise ValueError(
            f"classes={classes}, weight={weight}, gamma={gamma}, alpha={alpha}: at least 1, above 0, at least 0, in "
            "(0, 1) or left out"
        )
    return Actions(classes, label, weight, gamma, alpha)


@dataclasses.dataclass(frozen=True)
class Segmentation(EncoderFeatures):
    """The functions of the method, which `build` returns; the attributes are its arguments."""

    model: Model
    network: Segmenter
    heads: Mapping[str, Actions]

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "fc_norm": …, "head": …}."""
        self.model.check(batch["video"].shape)
        return self.network.init(stream(key, "classifier"), self._cubes(batch))["params"], None

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return each head's error, averaged over the clips of videos that have labels.

        Metrics of each head: `precision` and `recall` of the decisions at a probability of one half, over all frames.
        """
        keys = stream(row_keys(batch["seed"]), "drop_path") if context.train else None
        logits = self._logits(params, batch, keys)
        terms: dict[str, Term] = {}
        metrics: dict[str, Mean] = {}
        for name, head, part in self._columns():
            label = batch[head.label]
            valid = jnp.asarray(batch["valid"], bool) & jnp.asarray(batch[f"{head.label}_valid"], bool)
            shown, counted = jnp.asarray(label, bool) & valid[:, None, None], valid.astype(jnp.float32)
            error = head.error(logits[..., part], shown)
            terms[f"{name}_cross_entropy"] = Term((error * counted).sum(), counted.sum(), jnp.float32(head.weight))
            found = (logits[..., part] > 0) & valid[:, None, None]
            hits = (found & shown).sum().astype(jnp.float32)
            metrics[f"{name}_precision"] = Mean(hits, found.sum().astype(jnp.float32))
            metrics[f"{name}_recall"] = Mean(hits, shown.sum().astype(jnp.float32))
        return Loss(terms, metrics)

    def predict(self, params: Params, batch: Batch) -> Float[Array, "b k"]:
        """Return the logits of all heads, of each the frames one after the other, [b frames · classes]."""
        logits = self._logits(params, batch)
        parts = [logits[..., part].reshape(logits.shape[0], -1) for _, _, part in self._columns()]
        return jnp.concatenate(parts, axis=1)

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """Return the mean of the slots' features, which the heads read, or all tokens of the encoder."""
        if layer is not None or not pool:
            return super().features(params, batch, layer=layer, pool=pool)
        self.model.check(batch["video"].shape)
        slots: Any = self.network.apply({"params": params}, self._cubes(batch), method="slots")
        return slots.mean(axis=1)

    def method(self) -> Method:
        """Return these functions as a method."""
        frames = self.model.video_shape[0]
        labels = dict.fromkeys(head.label for head in self.heads.values())
        outputs = {name: Output("frames", frames * head.classes, head.label) for name, head in self.heads.items()}
        return Method(
            init=self.init,
            loss=self.loss,
            features=self.features,
            frame_features=self.frame_features,
            predict=self.predict,
            heads=outputs,
            supervision=tuple(key for label in labels for key in (label, f"{label}_valid")),
            expects={head.label: {"classes": head.classes} for head in self.heads.values()},
        )

    def _logits(self, params: Params, batch: Batch, keys: Array | None = None) -> Float[Array, "b t k"]:
        self.model.check(batch["video"].shape)
        return jnp.asarray(self.network.apply({"params": params}, self._cubes(batch), keys))

    def _cubes(self, batch: Batch) -> Array:
        return self.model.normalize(patchify(batch["video"], self.model.patch))

    def _columns(self) -> Iterator[tuple[str, Actions, slice]]:
        start = 0
        for name, head in self.heads.items():
            yield name, head, slice(start, start := start + head.classes)


@register("method", model="model", heads="frame_head")
def build(model: Model, heads: Mapping[str, Actions], init_scale: float = 0.001) -> Method:
    """Return temporal segmentation as a method.

    Args:
      model: the network, `models.variants.vit` of clips, of which only the encoder is used.
      heads: what is predicted of each frame, by name, each `methods.segmentation.actions`.
      init_scale: a factor on the initial kernel of the heads, whose deviation is 0.02 times this.

    Raises:
      ValueError: if there is no head, or the encoder has levels.
    """
    if not heads:
        raise ValueError("heads is empty: name at least one, such as actions=call('methods.segmentation.actions', …)")
    if model.encoder.levels:
        raise ValueError("methods.segmentation reads the last block of the encoder: leave out levels")
    classes = sum(head.classes for head in heads.values())
    network = Segmenter(model.encoder.clone(final_norm=False), classes, model.patch.t, init_scale)
    return Segmentation(dataclasses.replace(model, encoder=network.encoder), network, dict(heads)).method()
