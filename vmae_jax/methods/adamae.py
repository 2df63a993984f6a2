"""AdaMAE (Bandara et al., CVPR 2023): a masked autoencoder that learns which tokens to show the encoder.

A small network gives every token a probability, and the visible tokens are drawn from it without replacement. It is
trained by policy gradient: the log-probability of hidden tokens rises with their error. No gradient flows from the
error to this network, nor from the choice of tokens to the autoencoder.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.masking.core import Masker, check_ratio
from vmae_jax.methods.masked import Masked, Pass
from vmae_jax.models.sampler import Sampler
from vmae_jax.models.variants import Model
from vmae_jax.patches import patchify
from vmae_jax.registry import register
from vmae_jax.targets.core import Objective
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Params, Term, row_keys, stream

__all__ = ["Adaptive", "build", "drawn"]

PROBABILITIES = "token_probabilities"  # of the annotated batch
SMALLEST = 1.1920929e-07  # the epsilon of float32: probabilities stay this far from 0 and 1


def drawn(ratio: float) -> Masker:
    """Keep int(n (1 - ratio)) of n tokens, drawn by the batch's probabilities without replacement (Gumbel-top-k)."""

    def score(keys: Array, batch: Batch, grid: Any) -> Array:
        noise = jax.vmap(lambda key: jax.random.gumbel(key, (grid.size,)))(keys)
        # A probability that underflows counts as the smallest one, so that scores stay finite.
        return jnp.log(jnp.maximum(batch[PROBABILITIES], jnp.finfo(jnp.float32).tiny)) + noise

    return Masker(keep=lambda grid: int(grid.size * (1 - ratio)), score=score)


@dataclasses.dataclass(frozen=True)
class Adaptive(Masked):
    """The functions of AdaMAE, whose parameters have a tower "sampler".

    Attributes:
      sampler: the network that computes the probabilities.
      weight: the weight of the sampler's loss.
      objective: the name of the objective whose errors train the sampler.
    """

    sampler: Sampler = dataclasses.field(default_factory=lambda: Sampler(0))
    weight: float = 1e-4
    objective: str = "pixels"

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "decoder": …, "sampler": …}, with their partitioning boxes."""
        params, extra = super().init(key, batch)
        shape = (batch["video"].shape[0], self.model.grid.size, self.model.encoder.width)
        sampler = self.sampler.init(stream(key, "sampler"), jnp.zeros(shape, self.model.encoder.dtype))["params"]
        return {**params, "sampler": sampler}, extra

    def probabilities(self, params: Params, batch: Batch, *, train: bool) -> Float[Array, "b n"]:
        """Return the probability of each token to be drawn first."""
        cubes = self.model.normalize(patchify(jnp.asarray(batch["video"]), self.model.patch))
        tokens = self.model.encoder.embedded(params["encoder"], cubes)
        keys = stream(row_keys(batch["seed"]), "sampler") if train else None
        return jnp.asarray(self.sampler.apply({"params": params["sampler"]}, tokens, keys))

    def forward(self, params: Params, batch: Batch, context: Context, *, decode_all: bool = False) -> Pass:
        """See `Masked.forward`. The batch of the result has the probabilities from which the mask is drawn."""
        self.model.check(batch["video"].shape)
        found = self.probabilities(params, batch, train=context.train)
        return super().forward(params, {**batch, PROBABILITIES: found}, context, decode_all=decode_all)

    def sampling_losses(self, done: Pass) -> Float[Array, "b"]:
        """Return, for each clip, minus the mean over hidden tokens of log-probability times error, a constant here.

        Probabilities are divided by their sum and bounded by `SMALLEST`; where a bound applies, there is no gradient.
        """
        probabilities = done.batch[PROBABILITIES]
        probabilities = probabilities / probabilities.sum(axis=-1, keepdims=True)
        logs = jnp.log(jnp.clip(probabilities, SMALLEST, 1 - SMALLEST))
        hidden = jnp.take_along_axis(logs, done.masks.decode, axis=1)
        return -(hidden * jax.lax.stop_gradient(self.errors(done)[self.objective])).mean(axis=-1)

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the error of each objective and the sampler's loss; a metric is its entropy in nats."""
        done = self.forward(params, batch, context)
        valid = jnp.asarray(batch["valid"], jnp.float32)
        sampling = Term((self.sampling_losses(done) * valid).sum(), valid.sum(), jnp.float32(self.weight))
        entropy = jax.scipy.special.entr(done.batch[PROBABILITIES]).sum(axis=-1)
        metrics = {"sampler_entropy": Mean((entropy * valid).sum(), valid.sum())}
        return Loss(self.terms(done) | {"sampling": sampling}, metrics)


@register("method", model="model", objectives="objective")
def build(
    model: Model,
    objectives: Mapping[str, Objective],
    ratio: float = 0.95,
    weight: float = 1e-4,
    objective: str = "pixels",
    heads: int = 8,
    dropout: float = 0.1,
) -> Method:
    """Return AdaMAE as a method.

    The sampler reads every token of a clip, so a higher ratio saves time in the encoder only.

    Args:
      model: encoder and decoder, `models.variants.vit`.
      objectives: what is predicted, by name.
      ratio: the share of hidden tokens; int(n (1 - ratio)) of n are visible.
      weight: the weight of the sampler's loss.
      objective: the name of the objective whose errors train the sampler.
      heads: the number of heads of the sampler's attention.
      dropout: the rate in the sampler.

    Raises:
      ValueError: if a number is out of range, or no objective has that name.
    """
    check_ratio(ratio)
    if objective not in objectives:
        raise ValueError(f"objective={objective!r}: there are {', '.join(objectives) or 'no objectives'}")
    if weight < 0 or not 0 <= dropout < 1:
        raise ValueError(f"weight must be at least 0 and dropout in [0, 1), got weight={weight}, dropout={dropout}")
    if heads < 1 or model.encoder.width % heads:
        raise ValueError(f"heads={heads} do not divide the width of {model.encoder.width}")
    encoder = model.encoder
    sampler = Sampler(encoder.width, heads, dropout=dropout, dtype=encoder.dtype)
    options = {"sampler": sampler, "weight": weight, "objective": objective}
    return Adaptive(model, drawn(ratio), None, dict(objectives), **options).method()
