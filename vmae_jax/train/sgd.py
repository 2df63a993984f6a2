"""Stochastic gradient descent with momentum, learning rates of its own for some parameters, and LARS."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Array

from vmae_jax.registry import register
from vmae_jax.spec import ConfigError
from vmae_jax.train.adamw import Transformation, flat, global_norm, shrunk, without
from vmae_jax.train.optim import decays, layer_scales, matching
from vmae_jax.train.schedule import Clock, Rate, Schedule
from vmae_jax.types import Params

__all__ = ["Sgd", "SgdState", "sgd"]


class SgdState(NamedTuple):
    """The state of SGD; its velocity lacks frozen parameters.

    Attributes:
      count: updates so far, which the learning rates follow; a refused update does not count.
      velocity: the sum of past gradients, each weighted by a power of the momentum.
    """

    count: Array
    velocity: Params


@dataclasses.dataclass(frozen=True)
class Sgd:
    """SGD as built from a config; the attributes are the arguments of `sgd`."""

    schedule: Schedule
    momentum: float
    nesterov: bool
    weight_decay: float
    clip_norm: float | None
    rates: tuple[tuple[str, Schedule], ...]
    freeze: tuple[str, ...]
    layer_decay: float | None = None
    trust: float | None = None

    def build(self, abstract_params: Params, clock: Clock) -> tuple[Transformation, Rate]:
        """Return the transformation for these parameters (boxed shapes suffice), and the learning rates of `schedule`.

        Raises:
          ConfigError: if a pattern of `rates` or `freeze` matches nothing, two of `rates` match one parameter,
            nothing is left to train, or there is layer decay and no tower with layers.
        """
        frozen = matching(abstract_params, self.freeze, "freeze")
        decay = flat(without(decays(abstract_params), frozen))
        if not decay:
            raise ConfigError(f"optimizer.freeze={list(self.freeze)} leaves nothing to train")
        rate = self.schedule.at(clock)
        own = {pattern: schedule.at(clock) for pattern, schedule in self.rates}
        rates = {path: own.get(pattern or "", rate) for path, pattern in self._groups(abstract_params).items()}
        scales = flat(layer_scales(abstract_params, self.layer_decay))
        normed = {} if self.trust is None else _normed_axes(abstract_params)
        return self._transformation(rate, rates, decay, frozen, scales, normed), rate

    def describe(self, abstract_params: Params) -> str:
        """Return a line for each parameter: its weight decay and whose learning rate it has, or "frozen"."""
        frozen, decay = matching(abstract_params, self.freeze, "freeze"), flat(decays(abstract_params))
        scales = flat(layer_scales(abstract_params, self.layer_decay))
        lines = []
        for path, pattern in sorted(self._groups(abstract_params).items()):
            rate = "the schedule's rate" if pattern is None else f"the rate of {pattern}"
            own = f"{self.weight_decay if decay[path] else 0.0:g}"
            if self.layer_decay is not None:
                rate += " × " + ", ".join(f"{value:.6g}" for value in np.ravel(scales[path]))
            lines.append(f"{path}  {'frozen' if path in frozen else f'decay {own}  {rate}'}")
        return "\n".join(lines) + "\n"

    def _groups(self, abstract_params: Params) -> dict[str, str | None]:
        """The pattern of `rates` that each parameter matches; None where it has the rate of `schedule`."""
        groups: dict[str, str | None] = dict.fromkeys(flat(abstract_params))
        for pattern, _ in self.rates:
            for path in matching(abstract_params, [pattern], "rates"):
                if groups[path] is not None:
                    raise ConfigError(f"optimizer.rates: {groups[path]!r} and {pattern!r} both match {path}")
                groups[path] = pattern
        return groups

    def _transformation(
        self,
        rate: Rate,
        rates: Mapping[str, Rate],
        decay: Mapping[str, bool],
        frozen: frozenset[str],
        scales: Mapping[str, np.ndarray],
        normed: Mapping[str, tuple[int, ...]],
    ) -> Transformation:
        def init(params: Params) -> SgdState:
            return SgdState(jnp.int32(0), jax.tree.map(jnp.zeros_like, without(params, frozen)))

        def norm(grads: Params) -> Array:
            return global_norm(without(grads, frozen))

        def update(grads: Params, state: SgdState, params: Params, norm: Array, good: Array) -> tuple[Params, SgdState]:
            trained = without(grads, frozen)
            clipped = flat(trained if self.clip_norm is None else shrunk(trained, norm, self.clip_norm))
            now, velocity = flat(params), flat(state.velocity)
            new, moved = dict(now), {}
            for path, gradient in clipped.items():
                gradient = gradient + self.weight_decay * now[path] if decay[path] else gradient
                if path in normed:
                    gradient = gradient * self._ratio(now[path], gradient, normed[path])
                fast = self.momentum * velocity[path] + gradient
                direction = gradient + self.momentum * fast if self.nesterov else fast
                moved[path] = jax.lax.select(good, fast, velocity[path])
                step = rates[path](state.count) * direction
                if self.layer_decay is not None:
                    step = step * scales[path]
                new[path] = jax.lax.select(good, now[path] - step, now[path])
            count = jax.lax.select(good, state.count + 1, state.count)
            return unflatten_dict(new, sep="/"), SgdState(count, unflatten_dict(moved, sep="/"))

        return Transformation(init, norm, lambda state: jnp.asarray(rate(state.count), jnp.float32), update)

    def _ratio(self, value: Array, gradient: Array, axes: tuple[int, ...]) -> Array:
        """The trust ratio of LARS, of each layer of a stack by itself; 1 where the value or the gradient is 0."""
        length, change = (jnp.sqrt(jnp.square(x).sum(axes, keepdims=True)) for x in (value, gradient))
        ratio = (self.trust or 0.0) * length / jnp.where(change > 0, change, 1.0)
        return jnp.where((length > 0) & (change > 0), ratio, 1.0)


def _normed_axes(abstract_params: Params) -> dict[str, tuple[int, ...]]:
    """The axes of each parameter that its norm is over, without that of stacked layers; one-dimensional ones lack."""
    found = {}
    for path, box in flat(abstract_params).items():
        axes = tuple(at for at, name in enumerate(box.names) if name != "layers")
        if len(axes) > 1:
            found[path] = axes
    return found


@register("optimizer", schedule="schedule", rates="schedule")
def sgd(
    schedule: Schedule,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    rates: Mapping[str, Schedule] = MappingProxyType({}),
    freeze: Sequence[str] = (),
    layer_decay: float | None = None,
    trust: float | None = None,
) -> Sgd:
    """SGD with momentum and the numerics of PyTorch's, `clip_grad_norm_` before it; with `trust`, LARS.

    Args:
      schedule: the learning rate.
      momentum: the share of the velocity that is kept at each update.
      nesterov: whether the gradient is added to the velocity once more (Nesterov's momentum).
      weight_decay: added to the gradient, before the momentum, of parameters that declare it.
      clip_norm: the largest global norm of the gradients; None does not clip.
      rates: learning rates of some parameters in place of `schedule`, by pattern of their paths, such as {"head": …}.
      freeze: patterns of parameter paths that are not trained.
      layer_decay: the factor on the rate from one layer to the layer below, as of `train.optim.adamw`.
      trust: the trust coefficient of LARS (You et al. 2017): the gradient of a parameter, weight decay included, is
        scaled to the norm of the parameter times this, before the momentum. Parameters of one dimension are left out.

    Raises:
      ValueError: if a number is out of range.
    """
    if not 0 <= momentum < 1 or weight_decay < 0 or (nesterov and not momentum):
        raise ValueError(
            f"momentum={momentum}, weight_decay={weight_decay}: in [0, 1), above 0 for Nesterov's; at least 0"
        )
    if clip_norm is not None and clip_norm <= 0:
        raise ValueError(f"clip_norm must be above 0, got {clip_norm}; leave it out to clip nothing")
    if isinstance(freeze, str):
        raise ValueError(f"freeze is a list of patterns; write [{freeze!r}]")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be in (0, 1], got {layer_decay}; leave it out for one rate everywhere")
    if trust is not None and not 0 < trust < np.inf:
        raise ValueError(f"trust must be above 0 and finite, got {trust}; leave it out for plain SGD")
    groups = tuple(sorted(dict(rates).items()))
    return Sgd(schedule, momentum, nesterov, weight_decay, clip_norm, groups, tuple(freeze), layer_decay, trust)
