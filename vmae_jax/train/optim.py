"""AdamW with the official decay groups, layer-wise rates and frozen parts."""

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from flax.traverse_util import unflatten_dict

from vmae_jax.models.parameters import Parameter
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError
from vmae_jax.train.adamw import Run, Transformation, flat, transformation, without
from vmae_jax.train.schedule import Clock, Rate, Schedule, constant, length_in_steps
from vmae_jax.types import Params

__all__ = ["Optimizer", "adamw", "decays", "layer_scales", "matching"]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW as built from a config; the attributes are the arguments of `adamw`."""

    schedule: Schedule
    b1: float
    b2: float
    eps: float
    weight_decay: float | Schedule
    clip_norm: float | None
    layer_decay: float | None
    freeze: tuple[str, ...]
    also_decay: tuple[str, ...] = ()
    clip_each: bool = False
    clip_after: tuple[tuple[str, float], ...] = ()
    rate_shares: tuple[tuple[str, float], ...] = ()

    def build(self, abstract_params: Params, clock: Clock) -> tuple[Transformation, Rate]:
        """Return the transformation for these parameters (boxed shapes suffice), and its learning rates.

        Raises:
          ConfigError: if a parameter does not declare whether it decays, a pattern of `freeze`, `also_decay` or
            `rate_shares` matches nothing, nothing is left to train, or there is layer decay and no tower with layers.
        """
        frozen = matching(abstract_params, self.freeze, "freeze")
        decay = without(self.decays(abstract_params), frozen)
        if not decay:
            raise ConfigError(f"optimizer.freeze={list(self.freeze)} leaves nothing to train")
        scales = without(self.scales(abstract_params), frozen)
        rate = self.schedule.at(clock)
        run = Run(rate, self._decay_at(clock), clock.length(dict(self.clip_after)) if self.clip_after else 0)
        return transformation(self, run, decay, scales, frozen), rate

    def _decay_at(self, clock: Clock) -> Rate:
        decay = self.weight_decay
        return (constant(decay) if isinstance(decay, int | float) else decay).at(clock)

    def decays(self, abstract_params: Params) -> Params:
        """Return which parameters decay, by their declaration or by `also_decay`, as a tree of bools."""
        more = matching(abstract_params, self.also_decay, "also_decay")
        declared = flat(decays(abstract_params))
        return unflatten_dict({path: decay or path in more for path, decay in declared.items()}, sep="/")

    def scales(self, abstract_params: Params) -> Params:
        """Return each parameter's share of the learning rate, by its layer and by `rate_shares`."""
        found = flat(layer_scales(abstract_params, self.layer_decay))
        for pattern, share in self.rate_shares:
            for path in matching(abstract_params, [pattern], "rate_shares"):
                found[path] = found[path] * np.float32(share)
        return unflatten_dict(found, sep="/")

    def describe(self, abstract_params: Params) -> str:
        """Return a line for each parameter: its weight decay and its share of the learning rate, or "frozen"."""
        frozen, decay = matching(abstract_params, self.freeze, "freeze"), flat(self.decays(abstract_params))
        scales = flat(self.scales(abstract_params))
        lines = []
        for path in sorted(decay):
            scale = ", ".join(f"{value:.6g}" for value in np.ravel(scales[path]))
            own = f"{self._first_decay() if decay[path] else 0.0:g}"
            how = "frozen" if path in frozen else f"decay {own}  rate × {scale}"
            lines.append(f"{path}  {how}")
        return "\n".join(lines) + "\n"

    def _first_decay(self) -> float:
        decay = self.weight_decay
        return decay if isinstance(decay, int | float) else decay.peak


@register("optimizer", schedule="schedule", weight_decay="schedule")
def adamw(
    schedule: Schedule,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float | Schedule = 0.05,
    clip_norm: float | None = None,
    layer_decay: float | None = None,
    freeze: Sequence[str] = (),
    also_decay: Sequence[str] = (),
    clip_each: bool = False,
    clip_after: Mapping[str, float] = MappingProxyType({"steps": 0}),
    rate_shares: Mapping[str, float] = MappingProxyType({}),
) -> Optimizer:
    """AdamW with the numerics of PyTorch's, `clip_grad_norm_` before it (Loshchilov and Hutter, 2019).

    Args:
      schedule: the learning rate.
      b1, b2, eps: of Adam; `eps` is added outside the root, after bias correction.
      weight_decay: decoupled; multiplied by the learning rate; only for parameters that declare it. A number, or a
        schedule such as `train.schedule.ramp`.
      clip_norm: the largest global norm of the gradients; None does not clip.
      layer_decay: the factor of the learning rate from a layer to the one below it (fine-tuning).
      freeze: patterns of parameter paths, `encoder` or `encoder/blocks/*/bias`, that are not trained.
      also_decay: patterns of parameters that decay although they do not declare it, such as `*_token` (MAE and MAE-ST
        apply weight decay to tokens and learned positions in pre-training).
      clip_each: clip the gradients of each network, a first name of the paths, by its own norm (V-JEPA).
      clip_after: the updates before the first that is clipped, as {"epochs": 41}, {"steps": …} or {"examples": …}.
      rate_shares: factors of the learning rate of some parameters, by pattern of their paths, such as {"encoder": 0.1};
        those of all patterns that match a parameter are multiplied.

    Raises:
      ValueError: if a number is out of range.
    """
    for name, value in (("b1", b1), ("b2", b2)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value}")
    if eps <= 0 or (isinstance(weight_decay, int | float) and weight_decay < 0):
        raise ValueError(f"eps must be above 0 and weight_decay at least 0, got {eps} and {weight_decay}")
    length_in_steps(clip_after, steps_per_epoch=1.0, global_batch=1)  # reports a wrong unit here
    if clip_norm is not None and clip_norm <= 0:
        raise ValueError(f"clip_norm must be above 0, got {clip_norm}; leave it out to clip nothing")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be in (0, 1], got {layer_decay}; leave it out for one rate everywhere")
    for name, patterns in (("freeze", freeze), ("also_decay", also_decay)):
        if isinstance(patterns, str):
            raise ValueError(f"{name} is a list of patterns; write [{patterns!r}]")
    wrong = {pattern: share for pattern, share in dict(rate_shares).items() if not 0 <= share < np.inf}
    if wrong:
        raise ValueError(f"a share of the learning rate must be at least 0 and finite, got {wrong}")
    shares = tuple(sorted(dict(rate_shares).items()))
    clipping = {"clip_each": clip_each, "clip_after": tuple(dict(clip_after).items())}
    return Optimizer(
        schedule,
        b1,
        b2,
        eps,
        weight_decay,
        clip_norm,
        layer_decay,
        tuple(freeze),
        tuple(also_decay),
        **clipping,
        rate_shares=shares,
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
    boxes = flat(params)
    for path, box in boxes.items():
        if not isinstance(box, Parameter):
            raise ConfigError(
                f"parameter {path!r} does not declare whether it decays: make it with "
                f"models.parameters.declare(initializer, *names, decay=…)"
            )
    return boxes


def matching(params: Params, patterns: Iterable[str], argument: str) -> frozenset[str]:
    """Return the paths that a pattern of an argument matches, or one of whose parents it matches.

    Raises:
      ConfigError: if a pattern matches none.
    """
    found: set[str] = set()
    paths = list(flat(params))
    for pattern in patterns:
        match = [p for p in paths if fnmatch.fnmatchcase(p, pattern) or fnmatch.fnmatchcase(p, f"{pattern}/*")]
        if not match:
            raise ConfigError(f"optimizer.{argument}: {pattern!r} matches no parameter; there are {', '.join(paths)}")
        found.update(match)
    return frozenset(found)
