"""The decoder of SiamMCVAE: a view from its visible tokens, from all tokens of another view, and a latent variable."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vmae_jax.models.cross import MultiHead
from vmae_jax.models.decoder import Decoder
from vmae_jax.models.layers import Dense, LayerNorm
from vmae_jax.models.stack import Stack
from vmae_jax.patches import gather
from vmae_jax.scopes import part, tower
from vmae_jax.types import MaskPlan

__all__ = ["FUSIONS", "PRIORS", "Gaussian", "Restored", "VariationalDecoder", "divergence"]

FUSIONS = ("concat", "attention")
PRIORS = ("learned", "normal")
BOUND = 10.0  # of the logarithm of a variance


class Gaussian(NamedTuple):
    """A normal distribution for each token, whose dimensions are independent."""

    mean: Float[Array, "b n z"]
    log_variance: Float[Array, "b n z"]


class Restored(NamedTuple):
    """What `VariationalDecoder` returns.

    Attributes:
      predictions: those of each objective at the decoded positions, [b k p] float32.
      prior: the latent variable given what is visible.
      posterior: the latent variable given everything; None where the view was not given.
    """

    predictions: dict[str, Array]
    prior: Gaussian
    posterior: Gaussian | None


def divergence(q: Gaussian, p: Gaussian) -> Float[Array, "b n"]:
    """Return the Kullback-Leibler divergence KL(q || p) of each token in nats, summed over the dimensions."""
    ratio = jnp.exp(q.log_variance - p.log_variance)
    distance = jnp.square(q.mean - p.mean) * jnp.exp(-p.log_variance)
    return 0.5 * (p.log_variance - q.log_variance + ratio + distance - 1).sum(axis=-1)


class VariationalDecoder(Decoder):
    """A decoder of [prefix | visible tokens | mask tokens], each fused with the other view's token of its place.

    Attributes:
      latent: dimensions of the latent variable of a token.
      prior: "learned" from the fused tokens, or "normal", the standard normal distribution.
      fusion: "concat", a linear layer on a token and the other view's token of the same place; "attention", attention
        to all tokens of the other view, added to the token.
    """

    latent: int = 64
    prior: str = "learned"
    fusion: str = "concat"

    @nn.compact
    @tower("decoder")
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] - it has another view
        self,
        encoded: Float[Array, "b n d"],
        plan: MaskPlan,
        reference: Float[Array, "b m d"],
        whole: Float[Array, "b m d"] | None = None,
        noise: Float[Array, "b g z"] | None = None,
        *,
        infer: bool = False,
    ) -> Restored:
        """Return predictions at `plan.decode`, and the distributions of the latent variable.

        Args:
          encoded: the visible tokens of the view that is predicted, with its prefix.
          plan: their places, and those that are predicted; together all places.
          reference: all tokens of the other view, with its prefix.
          whole: all tokens of the view that is predicted, from which the posterior follows.
          noise: standard normal values for each place of the grid; None takes the mean of the distribution.
          infer: whether the latent variable has the posterior's distribution instead of the prior's.
        """
        order = jnp.concatenate([plan.visible, plan.decode], axis=1)
        whole = reference if self.is_initializing() else whole  # the posterior has parameters from the start
        with part("project"):
            project = self.projection()
            given, other = project(encoded), self._ordered(project(reference), order)
            x = self._fused(self.tokens(given, plan), other)
        with part("latent"):
            places = LayerNorm(name="norm_latent")(x[:, self.prefix :])
            prior, posterior = self._prior(places), None
            if whole is not None:
                seen = LayerNorm(name="norm_whole")(self._ordered(project(whole), order)[:, self.prefix :])
                posterior = self._gaussian(jnp.concatenate([places, seen], axis=-1), "posterior")
            chosen = posterior if infer and posterior is not None else prior
            z = chosen.mean
            if noise is not None:
                z = z + jnp.exp(0.5 * chosen.log_variance) * gather(noise, order)
            added = Dense(self.width, (None, "embed"), dtype=self.dtype, name="latent_embed")(z)
            x = x + jnp.pad(added, ((0, 0), (self.prefix, 0), (0, 0)))
        stack = Stack(**self.blocks, first_layer=None, dtype=self.dtype, name="blocks")
        x = stack(x, valid=self._valid(plan), rotation=self._rotation(plan))
        return Restored(self.predictions(x, plan), prior, posterior)

    def _ordered(self, tokens: Float[Array, "b m d"], order: Int[Array, "b g"]) -> Float[Array, "b m d"]:
        """The prefix and the tokens of a whole view, in the order of the decoder's tokens."""
        return jnp.concatenate([tokens[:, : self.prefix], gather(tokens[:, self.prefix :], order)], axis=1)

    def _fused(self, x: Float[Array, "b m d"], other: Float[Array, "b m d"]) -> Float[Array, "b m d"]:
        if self.fusion == "concat":
            both = jnp.concatenate([x, other], axis=-1)
            return Dense(self.width, ("embed", None), dtype=self.dtype, name="fuse")(both)
        options = {name: self.blocks[name] for name in ("initial", "biases")} | {"form": self.blocks["attention"]}
        attend = MultiHead(self.blocks["heads"], **options, dtype=self.dtype, name="cross_attention")
        norm = [LayerNorm(self.dtype, name=name) for name in ("norm_query", "norm_reference")]
        return x + attend(norm[0](x), norm[1](other))

    def _prior(self, places: Float[Array, "b g d"]) -> Gaussian:
        if self.prior == "normal":
            zeros = jnp.zeros((*places.shape[:2], self.latent))
            return Gaussian(zeros, zeros)
        return self._gaussian(places, "prior")

    def _gaussian(self, x: Float[Array, "b g d"], name: str) -> Gaussian:
        """A linear layer in float32, whose log-variances are bounded."""
        mean, log_variance = jnp.split(Dense(2 * self.latent, ("embed", None), name=f"{name}_head")(x), 2, axis=-1)
        return Gaussian(mean, jnp.clip(log_variance, -BOUND, BOUND))
