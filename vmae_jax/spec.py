"""A config is a tree of calls: `call` writes one down, `build` checks it and carries it out.

    call("masking.tube", ratio=0.9)

is data (a ConfigDict with the name and every argument, defaults filled in from the function's
signature). It can be printed, overridden, stored as JSON and loaded again without running
anything. `build` resolves the names, checks every argument against the signature, and calls.

A config can call only what is registered (`registry.register`), in the component packages of vmae_jax or in a
package that the user admits by name (`--plugins=`). Every section and argument accepts calls of its own
kinds only (a mask where a mask belongs), and all other arguments accept plain data only. Registered functions
compute values and do nothing else, so building a stranger's `config.json` reads, writes, runs and imports
nothing beyond vmae_jax itself. What the built parts do later follows the config: they read the
videos, weights and label files at the paths that it names.
"""

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from vmae_jax.annotations import fits, in_words, scalar, shapes
from vmae_jax.errors import ConfigError, MissingArgumentsError, did_you_mean, short
from vmae_jax.lookup import entry, resolve

__all__ = [
    "ConfigError",
    "arguments",
    "build",
    "call",
    "calls",
    "did_you_mean",
    "from_json",
    "resolve",
    "to_json",
]

CALL = "call"
DEPTH = 64  # of a config that is read from a file
_VARIABLE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
_MISSING = object()  # a required argument that nobody has given yet


def call(name: str, /, **arguments: Any) -> ConfigDict:
    """A call, written down: the function's name and all its arguments, defaults included.

    Raises:
      ConfigError: an argument that the function does not have.
    """
    parameters = _parameters(resolve(name))
    _check_names(name, arguments, parameters)
    config = ConfigDict({CALL: name}, sort_keys=False, convert_dict=False)
    for key, parameter in parameters.items():
        if parameter.kind in _VARIABLE:
            continue
        if key in arguments:
            config[key] = _stored(arguments[key], parameter)
        elif parameter.default is inspect.Parameter.empty:
            # Left open, so that a command line can still set it; `build` reports what is missing.
            config[key] = config_dict.required_placeholder(scalar(parameter.annotation))
        else:
            config[key] = _stored(parameter.default, parameter)
    config.update({key: _config(value) for key, value in arguments.items() if key not in parameters})
    return config


def build(config: Any, kind: str | None = None, /, **context: Any) -> Any:
    """Check a call and carry it out, with all the calls in it, innermost first.

    Args:
      config: the call.
      kind: of component that it must be; None accepts every kind.
      **context: arguments for the outermost call that a config cannot hold.

    Raises:
      ConfigError: if it is no call of that kind, an argument is unknown or missing, or a value is refused.
    """
    if not _is_call(config):
        expected = f"a call of kind {kind}" if kind else "a call"
        raise ConfigError(f"{expected} was expected, such as {{'call': 'masking.tube', …}}, got {short(config)}")
    name, items = _items(config)
    function = resolve(name, kind)
    given = _arguments(name, function, items) | context
    missing = [
        key
        for key, parameter in _parameters(function).items()
        if key not in given and parameter.default is inspect.Parameter.empty and parameter.kind not in _VARIABLE
    ]
    if missing:
        raise MissingArgumentsError(name, missing)
    return _carry_out(name, function, given)


def arguments(config: Any, kind: str | None = None) -> dict[str, Any]:
    """Return the arguments of a call, checked and built as `build` does, without carrying it out.

    Raises:
      ConfigError: as `build`, but for arguments that are missing.
    """
    if not _is_call(config):
        raise ConfigError(f"a call was expected, got {short(config)}")
    name, items = _items(config)
    return _arguments(name, resolve(name, kind), items)


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
      ConfigError: if the text is not a JSON object, is nested too deeply, or holds a key that no config can have.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not a config: {_first_line(error)}") from None
    if not isinstance(data, dict):
        raise ConfigError("not a config: a JSON object was expected")
    if _depth(data) > DEPTH:
        raise ConfigError(f"not a config: nested more than {DEPTH} levels deep")
    try:
        return _config(data)
    except (KeyError, TypeError, ValueError) as error:  # a key that is an attribute of ConfigDict, or has a dot
        raise ConfigError(f"not a config: {_first_line(error)}") from None


def _carry_out(name: str, function: Callable[..., Any], given: dict[str, Any]) -> Any:
    try:
        return function(**given)
    except ConfigError:
        raise
    except (ValueError, ArithmeticError) as error:
        raise ConfigError(f"{name}: {_first_line(error)}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("beartype", "jaxtyping"):
            raise ConfigError(f"{name}: {_first_line(error)}") from error
        raise


def _arguments(name: str, function: Callable[..., Any], items: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments of a call against what the function accepts, and build the calls in them."""
    parameters, accepts = _parameters(function), entry(function).accepts
    _check_names(name, items, parameters)
    found = {}
    for key, value in items.items():
        if key in accepts:
            found[key] = _calls_in(f"{name}: {key}", value, accepts[key], parameters[key])
            continue
        found[key] = _without_calls(f"{name}: {key}", value)
        parameter = parameters.get(key)
        if parameter is not None and not fits(found[key], parameter.annotation):
            raise ConfigError(f"{name}: {key} must be {in_words(parameter.annotation)}, got {short(found[key])}")
    return found


def _calls_in(where: str, value: Any, kinds: tuple[str, ...], parameter: inspect.Parameter) -> Any:
    """Build the call, the list of calls or the mapping of calls that an argument accepts, as it is annotated."""
    accepted = shapes(parameter.annotation)
    if (value is None and (None in accepted or parameter.default is None)) or (value is True or value is False):
        if value is None or bool in accepted:
            return value
    elif dict in accepted and isinstance(value, Mapping | ConfigDict) and not _is_call(value):
        return {key: _one_call(f"{where}.{key}", one, kinds) for key, one in _present(value).items()}
    elif list in accepted and isinstance(value, list | tuple):
        return type(value)(_one_call(f"{where}[{i}]", one, kinds) for i, one in enumerate(value))
    elif float in accepted and isinstance(value, int | float):
        return value
    elif object in accepted:
        return _one_call(where, value, kinds)
    forms = {object: "a call", list: "a list of calls", dict: "a mapping of calls", bool: "true or false",
             float: "a number", None: "none"}  # fmt: skip
    text = " or ".join(words for form, words in forms.items() if form in accepted)
    raise ConfigError(f"{where} accepts {text}, of kind {' or '.join(kinds)}, got {short(value)}")


def _one_call(where: str, value: Any, kinds: tuple[str, ...]) -> Any:
    if _is_call(value):
        name = _items(value)[0]
        kind = entry(resolve(name)).kind
        if kind in kinds:
            return build(value)
        raise ConfigError(f"{where} accepts a call of kind {' or '.join(kinds)}, got {name!r}, a {kind}")
    if value is None or isinstance(value, int | float | str | Mapping | ConfigDict | list | tuple):
        raise ConfigError(f"{where} accepts a call of kind {' or '.join(kinds)}, got {short(value)}")
    return value  # an object, which no file can hold


def _without_calls(where: str, value: Any) -> Any:
    """Return plain data as Python's own types."""
    if _is_call(value):
        raise ConfigError(f"{where} accepts plain data only, got the call {short(_items(value)[0])}")
    if isinstance(value, Mapping | ConfigDict):
        return {key: _without_calls(f"{where}.{key}", one) for key, one in _present(value).items()}
    if isinstance(value, list | tuple):
        return type(value)(_without_calls(f"{where}[{i}]", one) for i, one in enumerate(value))
    return value


def _is_call(value: Any) -> bool:
    return isinstance(value, Mapping | ConfigDict) and CALL in value


def _items(config: Any) -> tuple[Any, dict[str, Any]]:
    """Return the name of a call and the arguments that it has."""
    items = _present(config)
    return items.pop(CALL, None), items


def _present(config: Any) -> dict[str, Any]:
    """Return a mapping without the required values that nobody has given yet."""
    items = {key: _get(config, key) for key in config}
    return {key: value for key, value in items.items() if value is not _MISSING}


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


def _stored(value: Any, parameter: inspect.Parameter) -> Any:
    """`value` as a config can hold it: None becomes a placeholder of the annotated type."""
    return config_dict.placeholder(scalar(parameter.annotation)) if value is None else _config(value)


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


def _depth(data: Any) -> int:
    """Return how deeply lists and objects are nested, without recursion."""
    depth, level = 0, [data]
    while level:
        depth += 1
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
    return depth


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
