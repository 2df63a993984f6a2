"""MARLIN (Cai et al., CVPR 2023): a masked autoencoder of faces with an adversary.

    build(model=vit("B"), encoder_mask=face_parts(0.9), objectives={"pixels": objective(pixels(normalize=False))})

A critic learns to distinguish predicted from real pixels of hidden cubes (Wasserstein, without a penalty), and the
autoencoder to make its predictions look real. Both are trained in the same step: what one learns from has no gradient
for the other.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.masking.core import Masker
from vmae_jax.methods.masked import Masked, Pass
from vmae_jax.models.critic import Critic
from vmae_jax.models.variants import Model
from vmae_jax.registry import register
from vmae_jax.targets.core import Objective
from vmae_jax.targets.pixels import Pixels
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Params, Term, stream

__all__ = ["Adversarial", "build"]


@dataclasses.dataclass(frozen=True)
class Adversarial(Masked):
    """The functions of a masked autoencoder with a critic, whose parameters are the tower "critic".

    Attributes:
      hidden: the width of the critic's hidden layer.
      weight: the weight of the critic's judgement in the autoencoder's loss.
      objective: the name of the objective whose predictions are judged.
    """

    hidden: int = 0
    weight: float = 0.01
    objective: str = "pixels"

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "decoder": …, "critic": …}, with their partitioning boxes."""
        params, extra = super().init(key, batch)
        critic = self.critic().init(stream(key, "critic"), jnp.zeros((1, 1, self.model.cube)))["params"]
        return {**params, "critic": critic}, extra

    def critic(self) -> Critic:
        """Return the critic."""
        return Critic(self.hidden, self.model.encoder.dtype)

    def judged(self, weights: Params, cubes: Array) -> Array:
        """Return what a critic of these weights makes of cubes [b k p], [b k]."""
        return jnp.asarray(self.critic().apply({"params": weights}, cubes))

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the error of each objective, the autoencoder's part of the game, and the critic's.

        `loss/critic` is the mean judgement of predictions minus that of real cubes, which the critic makes small. The
        metric `critic_right` is the share of hidden cubes whose real pixels look more real to it than the prediction.
        """
        done = self.forward(params, batch, context)
        game = self.game(params["critic"], done)
        return dataclasses.replace(game, terms=self.terms(done) | game.terms)

    def game(self, weights: Params, done: Pass) -> Loss:
        """Return the terms "adversary", without gradient for the critic, and "critic", without one for predictions."""
        predicted, real, counted = self._cubes(done)
        fixed = jax.lax.stop_gradient
        fooled = -self.judged(fixed(weights), predicted)
        distance = self.judged(weights, fixed(predicted)) - self.judged(weights, fixed(real))
        terms = {
            "adversary": Term((fooled * counted).sum(), counted.sum(), jnp.float32(self.weight)),
            "critic": Term((distance * counted).sum(), counted.sum(), jnp.float32(1.0)),
        }
        return Loss(terms, {"critic_right": Mean(((distance < 0) * counted).sum(), counted.sum())})

    def _cubes(self, done: Pass) -> tuple[Array, Array, Array]:
        """The predicted and real pixels of decoded cubes, and which of them count."""
        real = self.objectives[self.objective].target(done.batch, done.masks.decode, self.model.patch)
        counted = done.masks.weight * done.batch["valid"][:, None]
        return done.predictions[self.objective].astype(jnp.float32), real.astype(jnp.float32), counted


@register("method", model="model", encoder_mask="mask", objectives="objective")
def build(
    model: Model,
    encoder_mask: Masker,
    objectives: Mapping[str, Objective],
    weight: float = 0.01,
    hidden: int | None = None,
    objective: str = "pixels",
) -> Method:
    """Return MARLIN as a method.

    Critic and autoencoder share one optimizer. AdamW updates every parameter by its own gradient, so this is what two
    optimizers do, unless gradients are clipped by a common norm (`optimizer.clip_norm` without `clip_each`).

    Args:
      model: encoder and decoder, `models.variants.vit`.
      encoder_mask: which tokens the encoder sees, such as `masking.face_parts`.
      objectives: what is predicted, by name.
      weight: the weight of the critic's judgement; at 0 the autoencoder is trained by the objectives alone.
      hidden: the width of the critic's hidden layer; by default four times the decoder's.
      objective: the name of the objective whose predictions are judged; it predicts whole cubes of pixels.

    Raises:
      ValueError: if a number is out of range, or no objective of pixels has that name.
    """
    target = objectives[objective].target if objective in objectives else None
    if not isinstance(target, Pixels) or target.frames is not None:
        raise ValueError(f"objective={objective!r}: it must be the name of an objective of pixels of all frames")
    if weight < 0 or (hidden is not None and hidden < 1):
        raise ValueError(f"weight must be at least 0 and hidden at least 1, got weight={weight}, hidden={hidden}")
    encoder_mask.keep(model.grid)  # fails now if the grid does not suit the mask
    options = {"weight": weight, "hidden": hidden or 4 * model.decoder["width"], "objective": objective}
    return Adversarial(model, encoder_mask, None, dict(objectives), **options).method()
