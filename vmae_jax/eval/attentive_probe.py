"""An attentive probe: a pooler and a linear layer trained on frozen tokens; the encoder does not change.

Several of them, with other learning rates and weight decays, are trained side by side on the same batches, as V-JEPA 2
evaluates (`evals/video_classification_frozen` of its code).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
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


BETTER = {"one": ("top1", 1.0), "many": ("map", 1.0), "numbers": ("rmse", -1.0)}


@dataclasses.dataclass(frozen=True)
class Clips:
    """The tokens of every clip, [clips n d] float16; the label and the number of its video."""

    tokens: np.ndarray
    label: np.ndarray
    index: np.ndarray

    def of(self, chosen: np.ndarray) -> "Clips":
        """Return those of some videos; `chosen` is true for each clip of them."""
        return Clips(self.tokens[chosen], self.label[chosen], self.index[chosen])

    def together(self, count: int) -> "Clips":
        """Return `count` clips of a video in a row as one, with the tokens of all of them.

        Raises:
          ValueError: if a video has another number of clips.
        """
        if count == 1:
            return self
        order = np.argsort(self.index, kind="stable")
        _, clips = np.unique(self.index, return_counts=True)
        if (clips % count).any():
            raise ValueError(
                f"clips={count}: videos have {clips.min()} to {clips.max()} clips; each needs a multiple of {count}, "
                "which is the sampler's views"
            )
        tokens = self.tokens[order].reshape(-1, count * self.tokens.shape[1], self.tokens.shape[2])
        return Clips(tokens, self.label[order][::count], self.index[order][::count])


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
    rates: tuple[tuple[float, float], ...]  # learning rate and weight decay of each head
    warmup: float
    held_out: float
    layers: tuple[int | None, ...]
    clips: int
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
        several = len(self.rates) > 1
        chosen_on = query
        if several and self.held_out:
            choosing = np.isin(known.index, self._held_out(known.index))
            if choosing.any():
                known, chosen_on = known.of(~choosing), known.of(choosing)
        network = Head(self.pool, outputs)
        weights = self._fit(network, known, programs)
        apply = programs(
            (self.pool, outputs, self.kind, "apply"),
            jax.vmap(lambda w, tokens: KINDS[self.kind][0](network.apply({"params": w}, tokens)), in_axes=(0, None)),
            alone=True,
        )
        head, (name, sign) = Output(self.kind, outputs, self.label), BETTER[self.kind]

        def judged(clips: Clips, heads: slice = slice(None)) -> list[dict[str, float]]:
            """The metrics of every head, or of some."""
            scores, truth = _of_videos(clips, lambda tokens: apply(weights, tokens), self.batch)
            videos = {"videos": float(len(truth))}
            return [dict(judge(head, one, truth, pictures=False)) | videos for one in scores[heads]]

        found = judged(query)
        on = found if chosen_on is query else judged(chosen_on)
        best = int(np.argmax([sign * one[name] for one in on]))
        [trained] = judged(known, slice(best, best + 1))
        metrics = {f"train_{key}": value for key, value in trained.items()} | found[best]
        if several:
            rate, decay = self.rates[best]
            every = [one[name] for one in found]
            metrics |= {"rate": rate, "weight_decay": decay, "heads": float(len(every))}
            metrics |= {f"{name}_mean": float(np.mean(every)), f"{name}_worst": sign * min(sign * one for one in every)}
        return Results(metrics)

    def _held_out(self, index: np.ndarray) -> np.ndarray:
        """The training videos on which the best head is found: at least one, but none of a single one."""
        videos = np.unique(index)
        count = min(max(1, round(self.held_out * len(videos))), len(videos) - 1)
        return np.random.default_rng([self.seed, 1]).permutation(videos)[:count]

    def _clips(self, method: Method, params: Params, batches: Iterable[Batch], programs: Programs) -> Clips:
        """The tokens of one pass. Raises ValueError: no labels, or more tokens than memory is given."""

        def seen(params: Params, batch: Batch) -> Array:
            levels = [method.features(params, batch, layer=layer, pool=False) for layer in self.layers]
            return jnp.concatenate(levels, axis=1).astype(jnp.float16)  # half the memory

        compute = programs((method.features, self.layers, False, "half"), seen)
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
        return Clips(*(np.concatenate(parts) for parts in (tokens, labels, numbers))).together(self.clips)

    def _fit(self, network: Head, clips: Clips, programs: Programs) -> Params:
        """Train all heads; their parameters, stacked."""
        count = len(clips.index)
        label = clips.label if self.kind == "one" else clips.label.reshape(count, -1)
        batch = min(self.batch, count)
        steps = max(1, count // batch) * self.epochs
        warm_up = min(max(1, int(self.warmup * steps)), steps - 1) if self.warmup else 0
        schedule = optax.warmup_cosine_decay_schedule(0.0 if warm_up else 1.0, 1.0, warm_up, steps)
        error = KINDS[self.kind][1]

        def optimizer(rate: Array, decay: Array) -> optax.GradientTransformation:
            return optax.adamw(lambda step: rate * schedule(step), weight_decay=decay)  # pyright: ignore[reportArgumentType]

        def begin(key: Array, rate: Array, decay: Array, x: Array) -> tuple[Params, Any]:
            weights = meta.unbox(network.init(key, x)["params"])
            return weights, optimizer(rate, decay).init(weights)

        def step(weights: Params, state: Any, rate: Array, decay: Array, x: Array, y: Array) -> tuple[Params, Any]:
            grads = jax.grad(lambda w: error(network.apply({"params": w}, x), y).mean())(weights)
            updates, state = optimizer(rate, decay).update(grads, state, weights)
            return optax.apply_updates(weights, updates), state

        made_of = (self.pool, network.outputs, self.kind, steps, warm_up)
        start = programs((*made_of, "begin"), jax.vmap(begin, in_axes=(0, 0, 0, None)), alone=True)
        compiled = programs((*made_of, "step"), jax.vmap(step, in_axes=(0, 0, 0, 0, None, None)), alone=True)
        keys = jax.vmap(jax.random.key)(self.seed + np.arange(len(self.rates)))
        rates, decays = np.asarray(self.rates, np.float32).T
        weights, state = start(keys, rates, decays, clips.tokens[:1])
        random = np.random.default_rng(self.seed)
        for _ in range(self.epochs):
            order = random.permutation(count)
            for first in range(0, max(1, count // batch) * batch, batch):
                rows = order[first : first + batch]
                weights, state = compiled(weights, state, rates, decays, clips.tokens[rows], label[rows])
        return weights


@register("evaluator", train="loader", pool="pool")
def attentive_probe(
    train: Any,
    pool: Any,
    epochs: int = 20,
    batch: int = 64,
    rates: Sequence[float] = (1e-3,),
    weight_decays: Sequence[float] = (0.01,),
    warmup: float = 0.05,
    held_out: float = 0.1,
    layers: Sequence[int] = (),
    clips: int = 1,
    label: str = "label",
    kind: str = "one",
    memory: float = 4.0,
    seed: int = 0,
) -> AttentiveProbe:
    """A pooler and a linear layer on all tokens of the frozen backbone, by AdamW with a cosine to 0.

    With several rates or weight decays there is a head for each pair of them. The metrics are those of the head that is
    the best on training videos which were held out; `rate` and `weight_decay` are its own, and top1_mean and
    top1_worst (map_…, rmse_…) are over all heads. The tokens are computed once and kept in memory. Larger
    data: fine-tune with `methods.classify.build(pool=…)` and `optimizer.freeze=["encoder"]`.

    Args:
      train: a `data.pipeline.loader` with labels; the section's own data are the test.
      pool: `models.pooling.attentive` or `models.pooling.deep_attentive`.
      epochs: passes over the training clips.
      batch: clips per step.
      rates: the highest learning rates.
      weight_decays: of AdamW, for all parameters.
      warmup: the share of the steps before the highest rate.
      held_out: the share of the training videos on which the best of several heads is found; 0 finds it on the test
        videos, as the code of V-JEPA 2 does, whose figures are therefore a little too good.
      layers: the blocks whose outputs are taken, one after the other as one sequence; empty is the last.
      clips: consecutive clips of a video whose tokens are one sequence. Outputs are averaged over the others.
      label: key of the labels in the batch.
      kind: "one" class, "many", or "numbers".
      memory: GiB that the tokens of either data may take.
      seed: of the initialization and the order of the clips.

    Raises:
      ValueError: if a number is out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
    if min(epochs, batch, clips) < 1 or memory <= 0 or not (0 <= warmup < 1 and 0 <= held_out < 1):
        raise ValueError("epochs, batch and clips must be at least 1, memory above 0, warmup and held_out in [0, 1)")
    if not rates or not weight_decays or min(rates) <= 0 or min(weight_decays) < 0:
        raise ValueError("rates must be above 0 and weight_decays at least 0, and there must be one of each")
    pairs = tuple(itertools.product(rates, weight_decays))
    where = tuple(layers) or (None,)
    return AttentiveProbe(
        train, pool, epochs, batch, pairs, warmup, held_out, where, clips, label, kind, memory, seed
    )  # fmt: skip


def _of_videos(clips: Clips, apply: Callable[[Any], Array], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of each head averaged over the clips of each video, [heads videos d], and the videos' labels."""
    rows = np.concatenate(
        [np.asarray(apply(clips.tokens[start : start + batch])) for start in range(0, len(clips.index), batch)], axis=1
    )
    _, first, video = np.unique(clips.index, return_index=True, return_inverse=True)
    total = np.zeros((len(first), len(rows), rows.shape[2]))
    np.add.at(total, video, rows.swapaxes(0, 1))
    return (total / np.bincount(video)[:, None, None]).swapaxes(0, 1), clips.label[first]
