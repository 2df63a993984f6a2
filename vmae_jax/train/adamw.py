"""The update of AdamW, which keeps the old state by itself where a step is refused."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float

from vmae_jax.train.schedule import Rate
from vmae_jax.types import Params

__all__ = ["AdamWState", "Run", "Transformation", "flat", "global_norm", "shrunk", "transformation", "without"]


class AdamWState(NamedTuple):
    """The state of AdamW; its moments lack frozen parameters.

    Attributes:
      count: updates so far, which the learning rate follows; a refused update does not count.
      mu, nu: first and second moments.
    """

    count: Array
    mu: Params
    nu: Params


class Transformation(NamedTuple):
    """An optimizer for given parameters.

    `update` itself keeps the old state if the step is refused. Choosing between old and new afterwards would make
    the compiler keep both (on a CPU, copies of all moments).

    Attributes:
      init: parameters -> its state.
      norm: gradients -> their L2 norm, without frozen parameters.
      rate: its state -> the learning rate of the next update.
      update: (gradients, state, parameters, norm, good) -> (parameters, state), both bit for bit as they
        were where not `good`.
    """

    init: Callable[[Params], Any]
    norm: Callable[[Params], Float[Array, ""]]
    rate: Callable[[Any], Float[Array, ""]]
    update: Callable[[Params, Any, Params, Float[Array, ""], Bool[Array, ""]], tuple[Params, Any]]


class Run(NamedTuple):
    """What AdamW takes from the clock of a run: learning rates, weight decays, and its first update that is clipped."""

    rate: Rate
    decay: Rate
    clipped: int


def global_norm(tree: Any) -> Array:
    """The L2 norm over all leaves, float32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)))


def transformation(own: Any, run: Run, decay: Params, scales: Params, frozen: frozenset[str]) -> Transformation:
    """Return AdamW for given parameters.

    Args:
      own: the settings, `train.optim.Optimizer`.
      run: what they are at each step of a run.
      decay: which parameters decay.
      scales: each parameter's share of the learning rate.
      frozen: paths that are not trained.
    """
    rate = run.rate

    def init(params: Params) -> AdamWState:
        zeros = lambda: jax.tree.map(jnp.zeros_like, without(params, frozen))  # noqa: E731
        return AdamWState(jnp.int32(0), zeros(), zeros())

    def norm(grads: Params) -> Array:
        return global_norm(without(grads, frozen))

    def update(grads: Params, state: AdamWState, params: Params, norm: Array, good: Array) -> tuple[Params, AdamWState]:
        trained = without(grads, frozen)
        if own.clip_norm is not None:
            trained = _clipped(trained, norm, own, state.count >= run.clipped if run.clipped else None)
        where = functools.partial(jax.lax.select, good)
        mu = jax.tree.map(lambda m, g: where(own.b1 * m + (1 - own.b1) * g, m), state.mu, trained)
        nu = jax.tree.map(lambda v, g: where(own.b2 * v + (1 - own.b2) * g * g, v), state.nu, trained)
        count = state.count + 1
        step, unbias1, unbias2 = rate(state.count), _unbias(own.b1, count), jnp.sqrt(_unbias(own.b2, count))
        falling = own.weight_decay if isinstance(own.weight_decay, int | float) else run.decay(state.count)

        def change(m, v, p, decayed, scale):
            direction = (m / unbias1) / (jnp.sqrt(v) / unbias2 + own.eps)
            return where(p - step * scale * (direction + (falling * p if decayed else 0.0)), p)

        changed = jax.tree.map(change, mu, nu, without(params, frozen), decay, scales)
        still = {path: leaf for path, leaf in flat(params).items() if path in frozen}
        return unflatten_dict(flat(changed) | still, sep="/"), AdamWState(where(count, state.count), mu, nu)

    return Transformation(init, norm, lambda state: jnp.asarray(rate(state.count), jnp.float32), update)


def _clipped(grads: Params, norm: Array, own: Any, now: Array | None) -> Params:
    """Return gradients whose norm, or that of each network, is at most `clip_norm`; where not `now`, as they are."""

    if not own.clip_each:
        return shrunk(grads, norm, own.clip_norm, now)
    return {name: shrunk(tree, global_norm(tree), own.clip_norm, now) for name, tree in grads.items()}


def shrunk(grads: Params, norm: Array, most: float, now: Array | None = None) -> Params:
    """Return gradients of this norm, scaled to a norm of `most` if theirs is larger; where not `now`, as they are."""
    shrink = jnp.minimum(most / (norm + 1e-6), 1.0)
    shrink = shrink if now is None else jnp.where(now, shrink, 1.0)
    return jax.tree.map(lambda g: g * shrink, grads)


def _unbias(decay: float, count: Array) -> Array:
    """Return 1 - decay ** count without cancellation in float32 (6e-5 at .999 and 1)."""
    if decay == 0.0:
        return jnp.float32(1.0)
    return -jnp.expm1(count.astype(jnp.float32) * math.log(decay))


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return flatten_dict(tree, sep="/")


def without(tree: Params, paths: frozenset[str]) -> Params:
    return unflatten_dict({path: leaf for path, leaf in flat(tree).items() if path not in paths}, sep="/")
