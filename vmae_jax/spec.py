"""A config is a tree of calls: `call` writes one down, `build` checks it and carries it out.

    call("masking.tube", ratio=0.9)

is data (a ConfigDict with the name and every argument, defaults filled in from the function's
signature). It can be printed, overridden, stored as JSON and loaded again without running
anything. `build` resolves the names, checks every argument against the signature, and calls.

Only functions that a module of vmae_jax both defines and exports in its `__all__` can be named,
and those of packages that the user allows by `allow_plugins`; so a stranger's `config.json` can
run nothing but our own functions.
"""

import dataclasses
import difflib
import functools
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

__all__ = [
    "ConfigError",
    "allow_plugins",
    "build",
    "call",
    "calls",
    "did_you_mean",
    "from_json",
    "overrides",
    "resolve",
    "to_json",
]

ROOT = "vmae_jax"
CALL = "call"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")
_plugins: set[str] = set()
_MISSING = object()  # a required argument that nobody has given yet


class ConfigError(ValueError):
    """A config that cannot be carried out; its message is one line for the user."""


def allow_plugins(packages: Iterable[str]) -> None:
    """Lets configs name functions of these packages of the user's own (`--plugins=`).

    Raises:
      ConfigError: there is no such package.
    """
    for package in packages:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", package) or not importlib.util.find_spec(package):
            raise ConfigError(f"--plugins={package}: there is no importable package of that name")
        _plugins.add(package)


def resolve(name: str) -> Callable[..., Any]:
    """The function that `name` stands for.

    A name is a module of vmae_jax and a function in it, `train.schedule.warmup_cosine`; where
    the two are called the same, once is enough: `masking.tube` is `masking.tube.tube`. A name
    that starts with an allowed plugin's package is looked up there.

    Raises:
      ConfigError: no such module or function, or one that is not exported.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or any(p.startswith("_") for p in name.split(".")):
        raise ConfigError(f"{name!r} is not the name of a function of {ROOT}, such as 'masking.tube'")
    root = name.split(".")[0] if name.split(".")[0] in _plugins else ROOT
    path = name if root != ROOT else f"{ROOT}.{name}"
    module_path, _, attribute = path.rpartition(".")
    if _is_module(path):
        module_path, attribute = path, path.rpartition(".")[2]
    if not _is_module(module_path):
        raise ConfigError(f"{name!r} names nothing in {root}{did_you_mean(name, _modules(root))}")
    module = importlib.import_module(module_path)
    exported = getattr(module, "__all__", ())
    function = getattr(module, attribute, None) if attribute in exported else None
    if function is None:
        known = [f"{module_path}.{item}" for item in exported] or _modules(root)
        known = [item.removeprefix(f"{ROOT}.") for item in known]
        choice = f"; there is {', '.join(sorted(exported))}" if exported else did_you_mean(name, known)
        raise ConfigError(f"{name!r} names nothing that {module_path} exports{choice}")
    home = getattr(function, "__module__", "") or ""
    if not callable(function) or home.split(".")[0] != root:
        raise ConfigError(f"{name!r} is not a function that {root} defines")
    return function


def call(name: str, /, **arguments: Any) -> ConfigDict:
    """A call, written down: the function's name and all its arguments, defaults included.

    Raises:
      ConfigError: an argument that the function does not have.
    """
    parameters = _parameters(resolve(name))
    _check_names(name, arguments, parameters)
    config = ConfigDict({CALL: name}, sort_keys=False, convert_dict=False)
    for key, parameter in parameters.items():
        if parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
            continue
        if key in arguments:
            config[key] = _stored(arguments[key], parameter)
        elif parameter.default is inspect.Parameter.empty:
            # Left open, so that a command line may still give it; `build` says what is missing.
            config[key] = config_dict.required_placeholder(_kind(parameter))
        else:
            config[key] = _stored(parameter.default, parameter)
    config.update({key: _config(value) for key, value in arguments.items() if key not in parameters})
    return config


def build(config: Any, **context: Any) -> Any:
    """Carries out a tree of calls, innermost first; whatever is no call is returned as it is.

    Args:
      config: a call, or a mapping or sequence that may hold calls.
      **context: arguments for the outermost call that a config cannot hold.

    Raises:
      ConfigError: an unknown or missing argument, a name outside vmae_jax, a value refused.
    """
    if isinstance(config, Mapping | ConfigDict):
        items = {key: _get(config, key) for key in config}
        items = {key: value for key, value in items.items() if value is not _MISSING}
        name = items.pop(CALL, None)
        if name is None:
            return {key: build(value) for key, value in items.items()}
        return _carry_out(name, items, context)
    if isinstance(config, list | tuple):
        return type(config)(build(value) for value in config)
    return config


def calls(config: Any) -> list[ConfigDict]:
    """Every call in a config, outermost first, to be looked at or changed in place."""
    found = []
    if isinstance(config, ConfigDict):
        found += [config] if CALL in config else []
        children = [_get(config, key) for key in config]
    else:
        children = config if isinstance(config, list | tuple) else []
    for child in children:
        found += calls(child)
    return found


def to_json(config: ConfigDict) -> str:
    """The config as JSON text that `from_json` reads back."""
    return json.dumps(_plain(config), indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
    """The config of `to_json`; nothing in it is run.

    Raises:
      ConfigError: the text is not a JSON object.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not a config: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError("not a config: a JSON object was expected")
    return _config(data)


def _carry_out(name: str, items: dict[str, Any], context: dict[str, Any]) -> Any:
    function = resolve(name)
    parameters = _parameters(function)
    _check_names(name, items, parameters)
    arguments = {key: build(value) for key, value in items.items()} | context
    missing = [
        key
        for key, parameter in parameters.items()
        if key not in arguments and parameter.default is inspect.Parameter.empty
    ]
    if missing:
        raise ConfigError(f"{name} needs {', '.join(missing)}")
    try:
        return function(**arguments)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("beartype", "jaxtyping"):
            raise ConfigError(f"{name}: {_first_line(error)}") from error
        raise


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return _signature(function).parameters


@functools.cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature, with the real defaults of a dataclass's fields that are made by a factory."""
    signature = inspect.signature(function, eval_str=True)
    factories = {
        field.name: field.default_factory
        for field in (dataclasses.fields(function) if dataclasses.is_dataclass(function) else ())
        if field.default_factory is not dataclasses.MISSING
    }
    parameters = [
        p.replace(default=factories[p.name]()) if p.name in factories else p for p in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters)


def _check_names(name: str, given: Iterable[str], parameters: Mapping[str, inspect.Parameter]) -> None:
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for key in given:
        if key not in parameters and not open_ended:
            taken = ", ".join(parameters) or "none"
            raise ConfigError(f"{name} has no argument {key!r}{did_you_mean(key, parameters)}; it takes {taken}")


def overrides(arguments: Iterable[str]) -> list[tuple[str, str]]:
    """("a.b", "value") of each `--config.a.b=value`, also written `--config.a.b value`.

    Raises:
      ConfigError: any other argument, or one without a value.
    """
    found = []
    items = iter(arguments)
    for item in items:
        if not item.startswith("--config."):
            raise ConfigError(f"vmae: unknown argument {item!r}; --help lists those there are")
        path, given, value = item.removeprefix("--config.").partition("=")
        if not given:
            value = next(items, None)
            if value is None:
                raise ConfigError(f"vmae: {item} needs a value: {item}=VALUE")
        found.append((path, value))
    return found


def did_you_mean(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


@functools.cache
def _is_module(path: str) -> bool:
    try:
        return importlib.util.find_spec(path) is not None
    except ModuleNotFoundError:
        return False


@functools.cache
def _modules(root: str) -> tuple[str, ...]:
    package = importlib.import_module(root)
    found = pkgutil.walk_packages(getattr(package, "__path__", []), prefix=f"{root}.")
    return tuple(module.name.removeprefix(f"{ROOT}.") for module in found)


def _stored(value: Any, parameter: inspect.Parameter) -> Any:
    """`value` as a config can hold it: None becomes a placeholder of the annotated type."""
    return config_dict.placeholder(_kind(parameter)) if value is None else _config(value)


def _kind(parameter: inspect.Parameter) -> type:
    """The scalar type that an annotation such as `int | None` asks for; else `object`."""
    kinds = typing.get_args(parameter.annotation) if _is_union(parameter.annotation) else (parameter.annotation,)
    kinds = [kind for kind in kinds if kind in (int, float, str, bool)]
    return kinds[0] if len(kinds) == 1 else object


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _get(config: Any, key: str) -> Any:
    try:
        return config[key]
    except config_dict.RequiredValueError:
        return _MISSING


def _config(data: Any) -> Any:
    """Plain data as ConfigDicts that keep their order; tuples become lists, as JSON has them."""
    if isinstance(data, ConfigDict):
        return data
    if isinstance(data, Mapping):
        config = ConfigDict(sort_keys=False, convert_dict=False)
        for key, value in data.items():
            config[key] = config_dict.placeholder(object) if value is None else _config(value)
        return config
    if isinstance(data, list | tuple):
        return [_config(value) for value in data]
    return data


def _plain(config: Any) -> Any:
    """ConfigDicts as plain data."""
    if isinstance(config, Mapping | ConfigDict):
        return {key: _plain(value) for key in config if (value := _get(config, key)) is not _MISSING}
    if isinstance(config, list | tuple):
        return [_plain(value) for value in config]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise ConfigError(f"a config holds numbers, strings, lists and calls, not {type(config).__name__}: {config!r}")


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
