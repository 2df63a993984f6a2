"""What a decoder's head is trained to predict, and the penalty for its errors."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.registry import register
from vmae_jax.vectors import unit

__all__ = ["Objective", "Penalty", "Target", "cosine", "l1", "l2", "objective", "smooth_l1"]

# (batch, decode [b k], patch) -> [b k p], float32. A target that reads other streams of the batch than those of the
# model names them in an attribute `inputs`. One that is not known at every token has a method `counted`, with the same
# arguments, which gives the weights [b k]; errors of weight 0 remain in the number of tokens by which they are divided.
Target = Callable[..., Array]
Penalty = Callable[[Array, Array], Array]  # (prediction, target) [b k p] -> [b k p]


class Objective(NamedTuple):
    """One thing to predict: its target, its weight in the loss, and the penalty for errors."""

    target: Target
    weight: float = 1.0
    penalty: Penalty | None = None

    def error(self, prediction: Float[Array, "b k p"], target: Float[Array, "b k p"]) -> Float[Array, "b k"]:
        """Return the penalty of each token, averaged over its values, in float32."""
        penalty = self.penalty or l2()
        return penalty(prediction.astype(jnp.float32), target.astype(jnp.float32)).mean(axis=-1)


@register("objective", target="target", penalty="penalty")
def objective(target: Target, weight: float = 1.0, penalty: Penalty | None = None) -> Objective:
    """Return an objective; the default penalty is the squared error."""
    if weight < 0:
        raise ValueError(f"the weight of an objective must not be negative, got {weight}")
    return Objective(target, weight, penalty)


@register("penalty")
def l2() -> Penalty:
    """The squared error."""
    return lambda prediction, target: jnp.square(prediction - target)


@register("penalty")
def l1() -> Penalty:
    """The absolute error."""
    return lambda prediction, target: jnp.abs(prediction - target)


@register("penalty")
def smooth_l1(beta: float = 1.0) -> Penalty:
    """Squared error below `beta`, linear above it (Huber's divided by beta, as in PyTorch's SmoothL1Loss)."""
    if beta <= 0:
        raise ValueError(f"smooth_l1 needs beta > 0, got {beta}")

    def penalty(prediction, target):
        error = jnp.abs(prediction - target)
        return jnp.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)

    return penalty


@register("penalty")
def cosine() -> Penalty:
    """The squared distance of unit vectors, 2 - 2 cos, of what is predicted of a token and its target.

    Spread over the channels, so that their mean is that of the tokens.
    """

    def penalty(prediction, target):
        return jnp.square(unit(prediction) - unit(target)) * prediction.shape[-1]

    return penalty
