"""AdamW with the official decay groups, layer-wise rates and frozen parts."""

import dataclasses
import fnmatch
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float

from vmae_jax.models.parameters import Parameter
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError
from vmae_jax.train.schedule import Clock, Rate, Schedule
from vmae_jax.types import Params

__all__ = ["AdamWState", "Optimizer", "Transformation", "adamw", "decays", "layer_scales"]


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


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW as built from a config; the attributes are the arguments of `adamw`."""

    schedule: Schedule
    b1: float
    b2: float
    eps: float
    weight_decay: float
    clip_norm: float | None
    layer_decay: float | None
    freeze: tuple[str, ...]
    also_decay: tuple[str, ...] = ()

    def build(self, abstract_params: Params, clock: Clock) -> tuple[Transformation, Rate]:
        """Return the transformation for these parameters (boxed shapes suffice), and its learning rates.

        Raises:
          ConfigError: if a parameter does not declare whether it decays, a pattern of `freeze` or `also_decay` matches
            nothing, nothing is left to train, or there is layer decay and no tower with layers.
        """
        frozen = _matching(abstract_params, self.freeze, "freeze")
        decay = _without(self.decays(abstract_params), frozen)
        if not decay:
            raise ConfigError(f"optimizer.freeze={list(self.freeze)} leaves nothing to train")
        scales = _without(layer_scales(abstract_params, self.layer_decay), frozen)
        rate = self.schedule.at(clock)
        return _transformation(self, rate, decay, scales, frozen), rate

    def decays(self, abstract_params: Params) -> Params:
        """Return which parameters decay, by their declaration or by `also_decay`, as a tree of bools."""
        more = _matching(abstract_params, self.also_decay, "also_decay")
        declared = _flat(decays(abstract_params))
        return unflatten_dict({path: decay or path in more for path, decay in declared.items()}, sep="/")

    def describe(self, abstract_params: Params) -> str:
        """Return a line for each parameter: its weight decay and its share of the learning rate, or "frozen"."""
        frozen, decay = _matching(abstract_params, self.freeze, "freeze"), _flat(self.decays(abstract_params))
        scales = _flat(layer_scales(abstract_params, self.layer_decay))
        lines = []
        for path in sorted(decay):
            scale = ", ".join(f"{value:.6g}" for value in np.ravel(scales[path]))
            how = "frozen" if path in frozen else f"decay {self.weight_decay if decay[path] else 0.0:g}  rate × {scale}"
            lines.append(f"{path}  {how}")
        return "\n".join(lines) + "\n"


@register("optimizer", schedule="schedule")
def adamw(
    schedule: Schedule,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.05,
    clip_norm: float | None = None,
    layer_decay: float | None = None,
    freeze: Sequence[str] = (),
    also_decay: Sequence[str] = (),
) -> Optimizer:
    """AdamW with the numerics of PyTorch's, `clip_grad_norm_` before it (Loshchilov and Hutter, 2019).

    Args:
      schedule: the learning rate.
      b1, b2, eps: of Adam; `eps` is added outside the root, after bias correction.
      weight_decay: decoupled; multiplied by the learning rate; only for parameters that declare it.
      clip_norm: the largest global norm of the gradients; None does not clip.
      layer_decay: the factor of the learning rate from a layer to the one below it (fine-tuning).
      freeze: patterns of parameter paths, `encoder` or `encoder/blocks/*/bias`, that are not trained.
      also_decay: patterns of parameters that decay although they do not declare it, such as `*_token` (MAE and MAE-ST
        apply weight decay to tokens and learned positions in pre-training).

    Raises:
      ValueError: if a number is out of range.
    """
    for name, value in (("b1", b1), ("b2", b2)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value}")
    if eps <= 0 or weight_decay < 0:
        raise ValueError(f"eps must be above 0 and weight_decay at least 0, got {eps} and {weight_decay}")
    if clip_norm is not None and clip_norm <= 0:
        raise ValueError(f"clip_norm must be above 0, got {clip_norm}; leave it out to clip nothing")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be in (0, 1], got {layer_decay}; leave it out for one rate everywhere")
    for name, patterns in (("freeze", freeze), ("also_decay", also_decay)):
        if isinstance(patterns, str):
            raise ValueError(f"{name} is a list of patterns; write [{patterns!r}]")
    return Optimizer(
        schedule, b1, b2, eps, weight_decay, clip_norm, layer_decay, tuple(freeze), also_decay=tuple(also_decay)
    )


def decays(params: Params) -> Params:
    """Return which parameters decay, as they declare it (`models.parameters`), as a tree of bools.

    Args:
      params: in their boxes.

    Raises:
      ConfigError: if a parameter declares nothing.
    """
    return unflatten_dict({path: box.decay for path, box in _declared(params).items()}, sep="/")


def layer_scales(params: Params, layer_decay: float | None) -> Params:
    """Return each parameter's share of the learning rate, broadcastable to it (BEiT; VideoMAE V2, `optim_factory`).

    In each tower, a first name of the paths, of L layers: layer_decay ** (L + 1 - layer), with layer 0 for the
    embedding and the positions and k for block k. Everything else has 1: norms after the blocks, heads, and towers
    whose blocks declare no layer.

    Args:
      params: in their boxes.

    Raises:
      ConfigError: if there is layer decay, and no parameter declares a layer above 0.
    """
    boxes = _declared(params)
    if layer_decay is None:
        return unflatten_dict(dict.fromkeys(boxes, np.float32(1.0)), sep="/")
    layers = {path: _layers(box) for path, box in boxes.items() if box.layer is not None}
    depths: dict[str, int] = {}
    for path, own in layers.items():
        depths[_tower(path)] = max(depths.get(_tower(path), 0), int(own.max()))
    if not any(depths.values()):
        raise ConfigError(f"layer_decay needs a model whose blocks declare their layers; it has {', '.join(boxes)}")

    def scale(path: str) -> np.ndarray:
        depth = depths.get(_tower(path), 0)
        if path not in layers or not depth:
            return np.asarray(1.0, np.float32)
        powers = np.float64(layer_decay) ** (depth + 1 - layers[path])
        return powers.astype(np.float32)

    return unflatten_dict({path: scale(path) for path in boxes}, sep="/")


def _layers(box: Parameter) -> np.ndarray:
    """The layer of each entry of a parameter that declares one, broadcastable to it."""
    shape = [size if name == "layers" else 1 for size, name in zip(box.value.shape, box.names, strict=False)]
    if "layers" not in box.names:
        return np.asarray(box.layer)
    return np.asarray(box.layer) + np.arange(max(shape)).reshape(shape)


def _tower(path: str) -> str:
    return path.partition("/")[0]


def _declared(params: Params) -> dict[str, Parameter]:
    """The parameters by path, each in the box that declares what the optimizer needs."""
    boxes = _flat(params)
    for path, box in boxes.items():
        if not isinstance(box, Parameter):
            raise ConfigError(
                f"parameter {path!r} does not declare whether it decays: make it with "
                f"models.parameters.declare(initializer, *names, decay=…)"
            )
    return boxes


def global_norm(tree: Any) -> Array:
    """The L2 norm over all leaves, float32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)))


def _transformation(
    own: Optimizer, rate: Rate, decay: Params, scales: Params, frozen: frozenset[str]
) -> Transformation:
    def init(params: Params) -> AdamWState:
        zeros = lambda: jax.tree.map(jnp.zeros_like, _without(params, frozen))  # noqa: E731
        return AdamWState(jnp.int32(0), zeros(), zeros())

    def norm(grads: Params) -> Array:
        return global_norm(_without(grads, frozen))

    def update(grads: Params, state: AdamWState, params: Params, norm: Array, good: Array) -> tuple[Params, AdamWState]:
        trained = _without(grads, frozen)
        if own.clip_norm is not None:
            shrink = jnp.minimum(own.clip_norm / (norm + 1e-6), 1.0)
            trained = jax.tree.map(lambda g: g * shrink, trained)
        where = functools.partial(jax.lax.select, good)
        mu = jax.tree.map(lambda m, g: where(own.b1 * m + (1 - own.b1) * g, m), state.mu, trained)
        nu = jax.tree.map(lambda v, g: where(own.b2 * v + (1 - own.b2) * g * g, v), state.nu, trained)
        count = state.count + 1
        step, unbias1, unbias2 = rate(state.count), _unbias(own.b1, count), jnp.sqrt(_unbias(own.b2, count))

        def change(m, v, p, decayed, scale):
            direction = (m / unbias1) / (jnp.sqrt(v) / unbias2 + own.eps)
            return where(p - step * scale * (direction + (own.weight_decay * p if decayed else 0.0)), p)

        changed = jax.tree.map(change, mu, nu, _without(params, frozen), decay, scales)
        still = {path: leaf for path, leaf in _flat(params).items() if path in frozen}
        return unflatten_dict(_flat(changed) | still, sep="/"), AdamWState(where(count, state.count), mu, nu)

    return Transformation(init, norm, lambda state: jnp.asarray(rate(state.count), jnp.float32), update)


def _unbias(decay: float, count: Array) -> Array:
    """Return 1 - decay ** count without cancellation in float32 (6e-5 at .999 and 1)."""
    if decay == 0.0:
        return jnp.float32(1.0)
    return -jnp.expm1(count.astype(jnp.float32) * math.log(decay))


def _matching(params: Params, patterns: Iterable[str], argument: str) -> frozenset[str]:
    """Return the paths that a pattern of an argument matches, or one of whose parents it matches.

    Raises:
      ConfigError: if a pattern matches none.
    """
    found: set[str] = set()
    paths = list(_flat(params))
    for pattern in patterns:
        match = [p for p in paths if fnmatch.fnmatchcase(p, pattern) or fnmatch.fnmatchcase(p, f"{pattern}/*")]
        if not match:
            raise ConfigError(f"optimizer.{argument}: {pattern!r} matches no parameter; there are {', '.join(paths)}")
        found.update(match)
    return frozenset(found)


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return flatten_dict(tree, sep="/")


def _without(tree: Params, paths: frozenset[str]) -> Params:
    return unflatten_dict({path: leaf for path, leaf in _flat(tree).items() if path not in paths}, sep="/")
