"""The modalities of a classifier: read and augmented, blended, pooled, and their outputs averaged."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.augment.modalities import ModalityMixup
from vmae_jax.inputs.readers import Reader
from vmae_jax.methods.padding import tokens_read
from vmae_jax.models.classifier import everything
from vmae_jax.models.variants import Model
from vmae_jax.patches import patchify
from vmae_jax.registry import register
from vmae_jax.types import Batch, MaskPlan, row_keys, stream

__all__ = ["ALL", "POOLS", "Branch", "Input", "Logits", "branch", "mixed", "pooled", "read"]

POOLS = ("modalities", "tokens", "prefix")
ALL = "all"  # the name of the outputs that are read from the tokens of all modalities


class Branch(NamedTuple):
    """A modality of a classifier: its encoder, and what it is read from."""

    model: Model
    read: Reader


class Input(NamedTuple):
    """A modality of a batch.

    Attributes:
      cubes: normalised, [b n p].
      there: which rows have it, [b].
      tokens: which tokens hold anything, [b n]; None for all.
    """

    cubes: Array
    there: Array
    tokens: Array | None

    @property
    def counted(self) -> Array:
        """Which tokens hold anything, False in rows without the modality, [b n]."""
        whole = jnp.ones(self.cubes.shape[:2], bool) if self.tokens is None else self.tokens
        return whole & self.there[:, None]

    @property
    def plan(self) -> MaskPlan:
        """The plan of an encoder that sees what holds anything, and everything in rows without the modality.

        A softmax over no token at all would make all gradients NaN.
        """
        plan = everything(*self.cubes.shape[:2])
        return plan if self.tokens is None else dataclasses.replace(plan, valid=self.tokens | ~self.there[:, None])


class Logits(NamedTuple):
    """The outputs of the heads.

    Attributes:
      of: by modality, [b outputs].
      there: which rows have the modality, float [b].
      nothing: the outputs for a clip without any.
    """

    of: dict[str, Array]
    there: dict[str, Array]
    nothing: Array

    @property
    def count(self) -> Array:
        """How many modalities each row has, [b]."""
        return functools.reduce(jnp.add, self.there.values())

    def mean(self, values: Mapping[str, Array]) -> Array:
        """Return the mean over the modalities that a row has; 0 where it has none."""
        shaped = lambda name: self.there[name].reshape(-1, *[1] * (values[name].ndim - 1))  # noqa: E731
        total = functools.reduce(jnp.add, [shaped(name) * values[name] for name in self.of])
        return total / jnp.maximum(self.count, 1).reshape(-1, *[1] * (total.ndim - 1))


def read(branches: Mapping[str, Branch], batch: Batch, *, train: bool) -> dict[str, Input]:
    """Return the modalities of a batch; `train` switches augmentation on."""
    found = {}
    for name, one in branches.items():
        keys = stream(row_keys(batch["seed"]), name) if train else None
        with jax.named_scope("inputs"):
            read = one.read.read(batch, one.model.video_shape[0], keys)
        one.model.check(read.video.shape)
        tokens = None if read.real is None else tokens_read(read.real, one.model)
        there = read.valid if tokens is None else read.valid & tokens.any(axis=1)
        found[name] = Input(one.model.normalize(patchify(read.video, one.model.patch)), there, tokens)
    return found


def mixed(
    inputs: Mapping[str, Input], target: Array, mix: ModalityMixup, keys: Array, valid: Array
) -> tuple[dict[str, Input], dict[str, Array]]:
    """Return blended modalities, in which a token holds something if either clip's does, and their targets."""
    cubes = {name: one.cubes for name, one in inputs.items()}
    there = {name: one.there for name, one in inputs.items()}
    size = mix.size(target.shape[0])
    cubes, targets, blended = mix(cubes, there, target, keys, valid)
    found = {}
    for name, one in inputs.items():
        tokens = one.tokens
        if tokens is not None:
            other = tokens.reshape(-1, size, tokens.shape[1])[:, ::-1].reshape(tokens.shape)
            tokens = tokens | (other & blended[name][:, None])
        found[name] = Input(cubes[name], one.there, tokens)
    return found, targets


def pooled(encoded: Mapping[str, Array], inputs: Mapping[str, Input], pool: str) -> dict[str, tuple[Array, Array]]:
    """Return what a head reads [b d], and which rows have it, of each modality or of all tokens together.

    Args:
      encoded: tokens of each modality, [b n d], perhaps after a prefix.
      inputs: what they were encoded from.
      pool: one of `POOLS`.
    """
    if pool == "prefix":
        return {name: (x[:, 0], inputs[name].there) for name, x in encoded.items()}
    sums, counts = {}, {}
    for name, x in encoded.items():
        x = x[:, -inputs[name].cubes.shape[1] :]
        counted = inputs[name].counted
        sums[name] = jnp.where(counted[..., None], x, 0.0).sum(axis=1)
        counts[name] = counted.sum(axis=1, keepdims=True)
    if pool == "tokens":
        sums = {ALL: functools.reduce(jnp.add, sums.values())}
        counts = {ALL: functools.reduce(jnp.add, counts.values())}
    return {name: (sums[name] / jnp.maximum(counts[name], 1), counts[name][:, 0] > 0) for name in sums}


@register("branch", model="model", read="reader")
def branch(model: Model, read: Reader) -> Branch:
    """Return a modality of `methods.mbt.build`.

    Args:
      model: `models.variants.vit` or `models.spectrogram`, of which only the encoder is used.
      read: what it is read from, one of `inputs.readers`.
    """
    return Branch(model, read)
