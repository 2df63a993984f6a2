"""Classification of clips by what is seen and heard: MBT (Nagrani et al. 2021), and the fine-tuning of AV-MAE.

    build(modalities={"video": branch(vit("B"), video()), "audio": branch(spectrogram("B"), sound(hamming()))},
          heads={"labels": many(527)}, fuse=bottleneck(8))

Each modality has an encoder of its own, and one norm and one linear layer read them all. With one modality this is a
classifier of videos, or of sounds.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array

from vmae_jax.augment.modalities import ModalityMixup
from vmae_jax.inputs.readers import Readers
from vmae_jax.methods import labels
from vmae_jax.methods.branches import ALL, POOLS, Branch, Input, Logits, mixed, pooled, read
from vmae_jax.methods.joint import FUSION
from vmae_jax.methods.labels import Head
from vmae_jax.models.encoder import Encoder
from vmae_jax.models.fusion import Fusion, Tower, alone
from vmae_jax.models.layers import Dense, LayerNorm
from vmae_jax.registry import register
from vmae_jax.scopes import part, tower
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Params, Term, row_keys, stream

__all__ = ["Mbt", "build"]


@dataclasses.dataclass(frozen=True)
class Mbt:
    """The functions of a classifier of several modalities, which `build` returns as a `Method`."""

    branches: Mapping[str, Branch]
    heads: Mapping[str, Head]
    fuse: Fusion | None
    pool: str
    init_scale: float
    mix: ModalityMixup | None

    @functools.cached_property
    def encoders(self) -> dict[str, Encoder]:
        """The encoders, without a final norm: all modalities share one."""
        return {name: one.model.encoder.clone(final_norm=False) for name, one in self.branches.items()}

    @functools.cached_property
    def head(self) -> Dense:
        """The linear layer of all heads."""
        init = initializers.truncated_normal(0.02 * self.init_scale) if self.init_scale else initializers.zeros
        outputs = sum(head.outputs for head in self.heads.values())
        return Dense(outputs, ("embed", "classes"), kernel_init=init)

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters: an encoder under the name of each modality, "fusion", "norm" and "head"."""
        for one in self.branches.values():
            one.read.shape(batch, one.model.video_shape)
        inputs = read(self.branches, batch, train=False)
        params: Params = {
            name: encoder.init(stream(key, name), inputs[name].cubes, inputs[name].plan)["params"]
            for name, encoder in self.encoders.items()
        }
        if self.fuse is not None:
            params[FUSION] = self.fuse.init(stream(key, FUSION), self.encoders)
        row = jnp.zeros((1, next(iter(self.encoders.values())).width))
        params["norm"] = LayerNorm().init(stream(key, "norm"), row)["params"]
        params["head"] = self.head.init(stream(key, "head"), row)["params"]
        return params, None

    def encode(self, params: Params, inputs: Mapping[str, Input], keys: Array | None = None) -> dict[str, Array]:
        """Return the tokens of each modality, exchanged and normalised, [b n d] float32; keys switch on drop path."""
        towers = {}
        for name, one in inputs.items():
            own = None if keys is None else stream(stream(keys, name), "drop_path")
            present = None if one.tokens is None else one.there
            towers[name] = Tower(self.encoders[name], params[name], one.cubes, one.plan, own, present)
        if self.fuse is not None:
            encoded = {name: one.fused for name, one in self.fuse(params[FUSION], towers).items()}
        else:
            encoded = {}
            for name, one in towers.items():
                with tower(name):
                    encoded[name] = alone(one)
        norm = lambda x: LayerNorm().apply({"params": params["norm"]}, x.astype(jnp.float32))  # noqa: E731
        with tower("classifier"):
            return {name: jnp.asarray(norm(x)) for name, x in encoded.items()}

    def logits(self, params: Params, encoded: Mapping[str, Array], inputs: Mapping[str, Input]) -> Logits:
        """Return the outputs of all heads, of each modality and of a clip."""
        found, there = {}, {}
        with tower("classifier"), part("head"):
            for name, (x, has) in pooled(encoded, inputs, self.pool).items():
                found[name] = jnp.asarray(self.head.apply({"params": params["head"]}, x))
                there[name] = has.astype(jnp.float32)
            nothing = jnp.asarray(params["head"]["bias"], jnp.float32)
        return Logits(found, there, nothing)

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return each head's error, averaged over the modalities of a clip, then over clips with any."""
        inputs, valid = read(self.branches, batch, train=context.train), jnp.asarray(batch["valid"])
        target = jnp.concatenate([h.target(labels.of_batch(h, batch)) for h in self.heads.values()], axis=-1)
        target = jnp.where(valid[:, None], target, 0.0)  # a row that only pads the batch may have any label, or none
        targets = dict.fromkeys(inputs, target)
        keys = row_keys(batch["seed"]) if context.train else None
        if keys is not None and self.mix is not None:
            inputs, targets = mixed(inputs, target, self.mix, keys, valid)
        found = self.logits(params, self.encode(params, inputs, keys), inputs)
        if self.pool == "tokens":  # mixed by one share, if at all
            targets = {ALL: next(iter(targets.values()))}
        valid = valid.astype(jnp.float32) * (found.count > 0)
        terms: dict[str, Term] = {}
        metrics: dict[str, Mean] = {}
        mean, goal = found.mean(found.of), found.mean(targets)
        for prefix, head, columns in self._columns():
            errors = {name: head.error(x[:, columns], targets[name][:, columns]) for name, x in found.of.items()}
            total = (found.mean(errors) * valid).sum()
            terms[prefix + head.term] = Term(total, valid.sum(), jnp.float32(head.weight))
            judged = head.metrics(mean[:, columns], goal[:, columns], valid)
            metrics |= {prefix + key: value for key, value in judged.items()}
        return Loss(terms, metrics)

    def _columns(self) -> Iterator[tuple[str, Head, slice]]:
        """Return each head with the prefix of its terms' names and its slice of the outputs."""
        start = 0
        for name, head in self.heads.items():
            yield f"{name}_" if name else "", head, slice(start, start := start + head.outputs)

    def predict(self, params: Params, batch: Batch) -> Array:
        """Return the outputs of all heads, [b outputs]: the mean over the modalities that a clip has."""
        inputs = read(self.branches, self._plain(batch), train=False)
        found = self.logits(params, self.encode(params, inputs), inputs)
        return jnp.where(found.count[:, None] > 0, found.mean(found.of), found.nothing)

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """Return the features of clips: the means of the modalities side by side, or all tokens.

        Args:
          layer: take the tokens after this many blocks of each encoder, before any exchange, without the norm.
          pool: return means, zeros where a clip lacks a modality; otherwise the tokens of one modality after the other.
        """
        inputs = read(self.branches, self._plain(batch), train=False)
        encoded = self.encode(params, inputs) if layer is None else self._shallow(params, inputs, layer)
        if pool:
            return jnp.concatenate([x for x, _ in pooled(encoded, inputs, "modalities").values()], axis=1)
        own = lambda name, x: x[:, self.encoders[name].prefix :]  # noqa: E731
        found = [jnp.where(inputs[name].counted[..., None], own(name, x), 0.0) for name, x in encoded.items()]
        return jnp.concatenate(found, axis=1)

    def _shallow(self, params: Params, inputs: Mapping[str, Input], layer: int) -> dict[str, Array]:
        found = {}
        for name, one in inputs.items():
            encoder, weights = self.encoders[name].shallow(params[name], layer)
            with tower(name):
                found[name] = alone(Tower(encoder, weights, one.cubes, one.plan, None)).astype(jnp.float32)
        return found

    def _plain(self, batch: Batch) -> Batch:
        """Return a batch with what every batch has; an exported program has none of it."""
        rows = batch[next(iter(self.branches.values())).read.inputs[0]].shape[0]
        return {"valid": jnp.ones(rows, bool), "seed": jnp.zeros((rows, 2), jnp.uint32), **batch}

    def method(self) -> Method:
        """Return these functions as a method."""
        readers = Readers({name: one.read for name, one in self.branches.items()})

        def check(batch: Batch) -> None:
            labels.check(self.heads, batch)
            readers.check(batch)

        return Method(
            init=self.init,
            loss=self.loss,
            features=self.features,
            predict=self.predict,
            group=self.mix.group if self.mix is not None else 1,
            suits=self.mix.size if self.mix is not None else None,
            check=check,
            check_first=readers.check_first,
            heads=self.heads,
            inputs=readers.inputs,
            supervision=labels.streams(self.heads),
            expects=readers.expects,
        )


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"classes": given["classes"] and max(given["classes"], 10)}  # of the drawn clips


@register("method", modalities="branch", heads="head", fuse="fusion", mix="modality_mixing", smoke=_smoke)
def build(
    modalities: Mapping[str, Branch],
    classes: int | None = None,
    smoothing: float = 0.0,
    heads: Mapping[str, Head] | None = None,
    fuse: Fusion | None = None,
    pool: str = "modalities",
    init_scale: float = 0.0,
    mix: ModalityMixup | None = None,
) -> Method:
    """Return a classifier of one or several modalities as a method.

    A clip that lacks a modality is judged by the others: the lacking one gives no logits and no loss, and the others do
    not see it.

    Args:
      modalities: by name; each has an encoder of its own.
      classes: the number of classes, of which each clip has one.
      smoothing: label smoothing of `classes`.
      heads: instead of `classes`, heads by name (`methods.labels`).
      fuse: how encoders exchange what they see, such as `models.fusion.bottleneck`; None: they do not.
      pool: what the head reads: "modalities", the mean of the tokens of each, whose logits and losses are averaged;
        "tokens", the mean of all tokens of a clip; "prefix", the class token of each.
      init_scale: a factor on the initial kernel of the head; 0 begins with zeros.
      mix: `augment.modalities.mixup`, in training.

    Raises:
      ValueError: if there is no modality, both or neither of classes and heads are given, or the choices do not suit
        each other.
    """
    if not modalities:
        raise ValueError("modalities must have at least one entry")
    taken = [name for name in modalities if name in (FUSION, "norm", "head")]
    if taken:
        raise ValueError(f"{taken[0]!r} names parameters of the classifier: give the modality another name")
    if (classes is None) == (not heads):
        raise ValueError("give either classes= (each clip has one class) or heads=")
    if heads and smoothing:
        raise ValueError("with heads=, set smoothing in each head")
    if pool not in POOLS:
        raise ValueError(f"pool={pool!r}: one of {', '.join(POOLS)}")
    if pool == "tokens" and mix is not None and mix.separate:
        raise ValueError("pool='tokens' has one prediction for all modalities: set separate=False of the mixup")
    if pool == "prefix" and any(not one.model.encoder.prefix for one in modalities.values()):
        raise ValueError("pool='prefix' reads class tokens: set prefix=1 of every model")
    encoders = {name: one.model.encoder for name, one in modalities.items()}
    if len({encoder.width for encoder in encoders.values()}) > 1:
        raise ValueError("the encoders of all modalities must have one width: the norm and the head are shared")
    if fuse is not None:
        fuse.check(encoders)
    heads = dict(heads) if heads else {"": labels.one(classes or 0, smoothing)}
    return Mbt(dict(modalities), heads, fuse, pool, init_scale, mix).method()
