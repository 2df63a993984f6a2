"""What a config may call: the functions and classes that are registered, each as a kind of component.

    @register("mask")
    def tube(ratio: float = 0.9) -> Masker: ...

    @register("method", model="model", encoder_mask="mask", decoder_mask="mask", objectives="objective")
    def build(model, encoder_mask, objectives, decoder_mask=None) -> Method: ...

A config can name nothing else, whatever a module's `__all__` holds. An argument that the decorator names
accepts calls of those kinds: one call, a list of calls or a mapping of calls. Every other argument accepts plain
data only. `smoke` gives a component's arguments at the size at which any config trains in seconds on a CPU
(`configs.common.smoke`):

    @register("sampler", smoke={"frames": 8, "stride": 1})
    def dense(frames: int = 16, stride: int = 4) -> Sampler: ...

So a registered function must do nothing but compute a value from its arguments: it may not open a
file, start a process or connect to anything (what it returns may do so later, when it is opened or called).

A package of the user registers its components in the same way, and is imported only if `admit` was called with
its name (`--plugins=PACKAGE`, see `plugins`). This module imports nothing else of the package.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

__all__ = ["COMPONENTS", "ROOT", "Registered", "admit", "admitted", "components", "register", "registered"]

ROOT = "vmae_jax"
# The only packages of vmae_jax whose modules are imported because a config names them.
COMPONENTS = ("augment", "data", "eval", "inputs", "masking", "methods", "models", "targets", "train")

_F = TypeVar("_F", bound=Callable[..., Any])
# Arguments at `smoke` size, or a function of a call's arguments that returns them (or a call in its place).
Smoke = Mapping[str, Any] | Callable[[Mapping[str, Any]], Any]


@dataclasses.dataclass(frozen=True)
class Registered:
    """A function or class that a config may call.

    Attributes:
      kind: of component, such as "mask".
      accepts: for every argument that may hold calls, the kinds of those calls.
      smoke: what changes at `smoke` size.
    """

    kind: str
    accepts: Mapping[str, tuple[str, ...]]
    smoke: Smoke


_registered: dict[Callable[..., Any], Registered] = {}
_admitted: set[str] = set()


def register(kind: str, /, *, smoke: Smoke | None = None, **accepts: str | tuple[str, ...]) -> Callable[[_F], _F]:
    """Register a function or class as something that a config may call.

    Args:
      kind: of component: a section or argument of a config accepts calls of certain kinds only.
      smoke: arguments at `smoke` size: their values, or a function of the arguments of a call (those that are given)
        that returns the values of those that change, or another call (`spec.call`) in place of this one.
      **accepts: the kinds of calls, one or several, that an argument accepts.

    Raises:
      TypeError: if the function has no argument of a name in `accepts` or `smoke`, or the kind is not an identifier.
    """
    kinds = {name: (one,) if isinstance(one, str) else tuple(one) for name, one in accepts.items()}
    for one in (kind, *(one for several in kinds.values() for one in several)):
        if not isinstance(one, str) or not one.isidentifier():
            raise TypeError(f"register: a kind is an identifier such as 'mask', got {one!r}")

    def mark(function: _F) -> _F:
        parameters = inspect.signature(function).parameters
        named = [*kinds, *(smoke if isinstance(smoke, Mapping) else ())]
        unknown = next((name for name in named if name not in parameters), None)
        if unknown is not None:
            raise TypeError(
                f"register: {function.__module__}.{function.__qualname__} has no argument {unknown!r}; it has "
                f"{', '.join(parameters) or 'none'}"
            )
        _registered[function] = Registered(kind, kinds, smoke or {})
        return function

    return mark


def registered(function: Any) -> Registered | None:
    """Return how a function or class is registered, or None if it is not."""
    try:
        return _registered.get(function)
    except TypeError:  # not hashable, so never registered
        return None


def components() -> dict[str, Callable[..., Any]]:
    """Return everything that the modules imported so far have registered, by module and name."""
    return {f"{one.__module__}.{one.__qualname__}": one for one in _registered}


def admit(package: str) -> None:
    """Let configs name what a package of the user registers."""
    _admitted.add(package)


def admitted() -> frozenset[str]:
    """Return the packages of the user whose registered functions a config may name."""
    return frozenset(_admitted)
