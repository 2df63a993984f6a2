"""From the name in a config to the registered function: the one place that imports a module because of a name."""

import functools
import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Callable
from typing import Any

from vmae_jax import registry
from vmae_jax.errors import ConfigError, did_you_mean, short
from vmae_jax.registry import COMPONENTS, ROOT, Registered

__all__ = ["entry", "resolve"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*){1,7}", re.ASCII)
_LENGTH = 200


def resolve(name: str, kind: str | None = None) -> Callable[..., Any]:
    """Return the registered function that `name` stands for.

    A name is a module of vmae_jax and a function in it, `train.schedule.warmup_cosine`; where
    the two are called the same, once is enough: `masking.tube` is `masking.tube.tube`. A name
    that starts with an admitted package of the user is looked up there.

    Args:
      name: of the function.
      kind: of component that it must be registered as; None accepts every kind.

    Raises:
      ConfigError: if there is no such module or function, or it is not registered as that kind.
    """
    if not isinstance(name, str) or len(name) > _LENGTH or not _NAME.fullmatch(name):
        raise ConfigError(f"{short(name)} is not the name of a component of {ROOT}, such as 'masking.tube'")
    first = name.split(".")[0]
    if first not in (*COMPONENTS, *registry.admitted()):
        hint = did_you_mean(name, _modules(ROOT)) if first.isascii() else ""
        raise ConfigError(
            f"{name!r} names no component of {ROOT}{hint}; if {first!r} is a package of yours that registers it, "
            f"give --plugins={first}"
        )
    root = ROOT if first in COMPONENTS else first
    path = f"{ROOT}.{name}" if root == ROOT else name
    module_path, _, attribute = path.rpartition(".")
    if _is_module(path):
        module_path, attribute = path, path.rpartition(".")[2]
    if not _is_module(module_path):
        raise ConfigError(f"{name!r} names nothing in {root}{did_you_mean(name, _modules(root))}")
    found = _components(module_path, root)
    if attribute not in found:
        if found:
            hint = f"; there is {', '.join(sorted(found))}"
        else:
            hint = did_you_mean(name, _modules(root))
        raise ConfigError(f"{name!r} names nothing that {module_path} registers{hint}")
    function = found[attribute]
    if kind is not None and entry(function).kind != kind:
        raise ConfigError(f"{name!r} is a component of kind {entry(function).kind}, where a {kind} was expected")
    return function


def entry(function: Callable[..., Any]) -> Registered:
    """Return how a function that `resolve` found is registered."""
    found = registry.registered(function)
    assert found is not None
    return found


@functools.cache
def _is_module(path: str) -> bool:
    try:
        return importlib.util.find_spec(path) is not None
    except ModuleNotFoundError:
        return False


def _components(module_path: str, root: str) -> dict[str, Callable[..., Any]]:
    """Return what a module registers, by name; what it imports from another package is not its own."""
    members = vars(importlib.import_module(module_path)).items()
    return {
        name: one
        for name, one in members
        if registry.registered(one) is not None and one.__module__.split(".")[0] == root
    }


@functools.cache
def _modules(root: str) -> tuple[str, ...]:
    """Return the names of the modules that may have components."""
    packages = [f"{ROOT}.{name}" for name in COMPONENTS] if root == ROOT else [root]
    found = list(packages)
    for package in packages:
        path = getattr(importlib.import_module(package), "__path__", [])
        found += [module.name for module in pkgutil.walk_packages(path, prefix=f"{package}.")]
    return tuple(name.removeprefix(f"{ROOT}.") for name in found)
