"""An attentive probe: a pooler and a head trained on frozen tokens; the encoder does not change."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.core import meta

from vmae_jax.eval.collect import About, Programs, Results, labelled, whole
from vmae_jax.eval.judge import judge
from vmae_jax.eval.scores import single
from vmae_jax.registry import register
from vmae_jax.types import Array, Batch, Method, Output, Params

__all__ = ["AttentiveProbe", "attentive_probe"]

KINDS = {
    "one": (jax.nn.softmax, lambda out, label: optax.softmax_cross_entropy_with_integer_labels(out, label)),
    "many": (jax.nn.sigmoid, lambda out, label: optax.sigmoid_binary_cross_entropy(out, label).mean(-1)),
    "numbers": (lambda out: out, lambda out, label: jnp.square(out - label).mean(-1)),
}


@dataclasses.dataclass(frozen=True)
class Clips:
    """The tokens of every clip, [clips n d] float16; the label and the number of its video."""

    tokens: np.ndarray
    label: np.ndarray
    index: np.ndarray


class Head(nn.Module):
    """The pool and a linear layer."""

    pool: Callable[[int], nn.Module]
    outputs: int

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        return nn.Dense(self.outputs)(self.pool(tokens.shape[-1])(tokens.astype(jnp.float32)))


@dataclasses.dataclass(frozen=True)
class AttentiveProbe:
    """See `attentive_probe`."""

    train: Any
    pool: Callable[[int], nn.Module]
    epochs: int
    batch: int
    rate: float
    weight_decay: float
    layer: int | None
    label: str
    kind: str
    memory: float
    seed: int

    def __call__(
        self, method: Method, params: Params, batches: Iterable[Batch], train: Iterable[Batch],
        about: About | None = None,
    ) -> Results:  # fmt: skip
        """Return the metrics on the videos, those on the training clips as train_…, and both counts."""
        programs = (about or About()).programs
        known, query = (self._clips(method, params, data, programs) for data in (train, batches))
        if self.kind == "one":
            for clips, of in ((known, "training videos"), (query, "videos")):
                single(clips.label, clips.index, self.label, of)
            outputs = int(max(known.label.max(), query.label.max())) + 1  # a class that training lacks is never right
        else:
            outputs = int(np.prod(known.label.shape[1:]))
        label = known.label if self.kind == "one" else known.label.reshape(-1, outputs)
        network = Head(self.pool, outputs)
        weights = self._fit(network, known.tokens, label, programs)
        apply = programs(
            (self.pool, outputs, self.kind),
            lambda w, tokens: KINDS[self.kind][0](network.apply({"params": w}, tokens)),
            alone=True,
        )
        head = Output(self.kind, outputs, self.label)
        metrics = {}
        for prefix, clips in (("train_", known), ("", query)):
            scores, truth = _of_videos(clips, lambda tokens: apply(weights, tokens), self.batch)
            metrics |= {prefix + name: value for name, value in judge(head, scores, truth, pictures=False).items()}
            metrics[f"{prefix}videos"] = float(len(scores))
        return Results(metrics)

    def _clips(self, method: Method, params: Params, batches: Iterable[Batch], programs: Programs) -> Clips:
        """The tokens of one pass. Raises ValueError: no labels, or more tokens than memory is given."""
        compute = programs(
            (method.features, self.layer, False, "half"),
            lambda p, b: method.features(p, b, layer=self.layer, pool=False).astype(jnp.float16),  # half the memory
        )
        tokens, labels, numbers, size = [], [], [], 0
        for batch in batches:
            valid = whole(labelled(batch, self.label)["valid"]).astype(bool)
            tokens.append(whole(compute(params, batch))[valid])
            labels.append(whole(batch[self.label])[valid])
            numbers.append(whole(batch["index"])[valid])
            size += tokens[-1].nbytes
            if size > self.memory * 2**30:
                raise ValueError(
                    f"the tokens take more than memory={self.memory:g} GiB: use fewer videos or more memory, or train "
                    f"the head with methods.classify.build(pool=…) and optimizer.freeze=['encoder']"
                )
        if not size:
            raise ValueError("there is nothing to evaluate: none of the videos can be read")
        return Clips(*(np.concatenate(parts) for parts in (tokens, labels, numbers)))

    def _fit(self, network: Head, tokens: np.ndarray, label: np.ndarray, programs: Programs) -> Params:
        count = len(tokens)
        batch = min(self.batch, count)
        steps = max(1, count // batch) * self.epochs
        warm_up = min(max(1, steps // 20), steps - 1)
        schedule = optax.warmup_cosine_decay_schedule(0.0, self.rate, warm_up, steps)
        tx = optax.adamw(schedule, weight_decay=self.weight_decay)
        weights = meta.unbox(network.init(jax.random.key(self.seed), jnp.asarray(tokens[:1]))["params"])
        error = KINDS[self.kind][1]

        def step(weights: Params, state: Any, x: Array, y: Array) -> tuple[Params, Any]:
            grads = jax.grad(lambda w: error(network.apply({"params": w}, x), y).mean())(weights)
            updates, state = tx.update(grads, state, weights)
            return optax.apply_updates(weights, updates), state

        made_of = (self.pool, network.outputs, self.kind, self.rate, self.weight_decay, steps)
        compiled = programs(made_of, step, alone=True)
        state, random = tx.init(weights), np.random.default_rng(self.seed)
        for _ in range(self.epochs):
            order = random.permutation(count)
            for start in range(0, max(1, count // batch) * batch, batch):
                rows = order[start : start + batch]
                weights, state = compiled(weights, state, tokens[rows], label[rows])
        return weights


@register("evaluator", train="loader", pool="pool")
def attentive_probe(
    train: Any,
    pool: Any,
    epochs: int = 20,
    batch: int = 64,
    rate: float = 1e-3,
    weight_decay: float = 0.01,
    layer: int | None = None,
    label: str = "label",
    kind: str = "one",
    memory: float = 4.0,
    seed: int = 0,
) -> AttentiveProbe:
    """A pooler and a linear head on all tokens of the frozen backbone, by AdamW with a cosine.

    The tokens are computed once and kept in memory. Larger data: fine-tune with
    `methods.classify.build(pool=…)` and `optimizer.freeze=["encoder"]`.

    Args:
      train: a `data.pipeline.loader` with labels; the section's own data are the test.
      pool: `models.pooling.attentive`.
      epochs: passes over the training clips.
      batch: clips per step.
      rate: the highest learning rate, after a warm-up of a twentieth of the steps.
      weight_decay: of AdamW.
      layer: the block whose output is taken; None is the last.
      label: key of the labels in the batch.
      kind: "one" class, "many", or "numbers".
      memory: GiB that the tokens of either data may take.
      seed: of the initialization and the order of the clips.

    Raises:
      ValueError: if a number is out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
    if min(epochs, batch) < 1 or min(rate, memory) <= 0 or weight_decay < 0:
        raise ValueError("epochs and batch must be at least 1, rate and memory above 0, weight_decay at least 0")
    return AttentiveProbe(train, pool, epochs, batch, rate, weight_decay, layer, label, kind, memory, seed)


def _of_videos(clips: Clips, apply: Callable[[Any], Array], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores averaged over the clips of each video, and the videos' labels."""
    rows = np.concatenate(
        [np.asarray(apply(clips.tokens[start : start + batch])) for start in range(0, len(clips.index), batch)]
    )
    _, first, video = np.unique(clips.index, return_index=True, return_inverse=True)
    total = np.zeros((len(first), rows.shape[1]))
    np.add.at(total, video, rows)
    return total / np.bincount(video)[:, None], clips.label[first]
