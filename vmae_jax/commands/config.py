"""Config files: `--config=FILE.py:arguments`, and `--config.a.b=value` on top of it.

A path `configs/NAME.py` that is not in the current folder is the file of that name in the package, so the same
command works in a clone, in any other folder and with an installed wheel.
"""

import ast
import importlib.util
import inspect
import pathlib
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from vmae_jax import configs
from vmae_jax.spec import ConfigError, did_you_mean, resolve

__all__ = ["apply_overrides", "load_config", "overrides", "packaged"]

PACKAGED = pathlib.Path(configs.__file__).parent
UNITS = {"steps", "epochs", "examples"}
_STEP = re.compile(r"([A-Za-z_][A-Za-z0-9_/]*)((?:\[\d+\])*)")  # a slash as in init_from.params/encoder.path


def load_config(target: str, overrides: Sequence[tuple[str, str]] = (), *, checkpoint: str | None = None) -> ConfigDict:
    """Return the config of a file, with overrides.

    The file is Python and is executed, so a target comes from the command line or the caller only, never from a
    workdir or another file.

    Args:
      target: `FILE.py` or `FILE.py:arguments`; the file has `get_config(arguments=None)`.
      overrides: pairs such as ("method.encoder_mask.ratio", "0.75").
      checkpoint: what the config is used on; passed to a `get_config` that has an argument of this name.

    Raises:
      ConfigError: if there is no such file, it fails, a key is unknown, or a value is of another type.
    """
    path, _, arguments = target.partition(":")
    get_config = getattr(_module(path), "get_config", None)
    if not callable(get_config):
        raise ConfigError(f"--config={path}: the file has no function get_config")
    known = {"checkpoint": checkpoint} if "checkpoint" in inspect.signature(get_config).parameters else {}
    config = get_config(arguments or None, **known)
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"--config={path}: get_config must return a ConfigDict")
    apply_overrides(config, overrides)
    return config


def apply_overrides(config: ConfigDict, overrides: Sequence[tuple[str, str]]) -> None:
    """Set each `a.b[0].c` to a value given as text, which must be of the type that is there.

    A length is one of {"steps": n}, {"epochs": n}, {"examples": n}; giving one replaces another, or None.

    Raises:
      ConfigError: if a key is unknown, or a value is of another type.
    """
    for path, text in overrides:
        *parents, last = _steps(path)
        node: Any = config
        owner: Any = None
        for key in parents:
            owner, node = node, _child(node, key, path)
        if node is None and last in UNITS and isinstance(owner, ConfigDict):  # a length that is not set yet
            with owner.ignore_type():
                owner[str(parents[-1])] = ConfigDict({last: _value(text)})
            continue
        if isinstance(node, list) and isinstance(last, int):
            _child(node, last, path)
            node[last] = _value(text)
            continue
        if not isinstance(node, ConfigDict):
            raise ConfigError(f"--config.{path}: nothing can be set inside a plain value")
        if last in UNITS and set(node) and set(node) <= UNITS:
            for unit in list(node):
                del node[unit]
        elif last not in node:
            raise ConfigError(_unknown(path, str(last), node))
        _assign(node, str(last), text, path)


def overrides(arguments: Iterable[str]) -> list[tuple[str, str]]:
    """Return ("a.b", "value") of each `--config.a.b=value`, also written `--config.a.b value`.

    Raises:
      ConfigError: if there is any other argument, or one without a value.
    """
    found = []
    items = iter(arguments)
    for item in items:
        if not item.startswith("--config."):
            raise ConfigError(f"vmae: unexpected argument {item!r}; --help lists what the command takes")
        path, given, value = item.removeprefix("--config.").partition("=")
        if not given:
            value = next(items, None)
            if value is None:
                raise ConfigError(f"vmae: {item} needs a value: {item}=VALUE")
        found.append((path, value))
    return found


def packaged() -> list[str]:
    """Return the names of the package's configs."""
    return sorted(one.stem for one in PACKAGED.glob("*.py") if one.stem not in ("__init__", "common", "recipes"))


def _module(path: str) -> Any:
    file = _file(path)
    spec = importlib.util.spec_from_file_location(f"_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config={path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(file.resolve().parent))  # a config may import the modules beside it
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ConfigError(f"--config={path}: line {error.lineno}: {error.msg}") from error
    except ImportError as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        raise ConfigError(
            f"--config={path}: line {lines[-1] if lines else '?'}: {error} (the configs of the package are imported "
            "with `from vmae_jax.configs import common`)"
        ) from error
    finally:
        sys.path.pop()
    return module


def _file(path: str) -> pathlib.Path:
    """Return the file of a path: below the current folder, or else in the package."""
    file = pathlib.Path(path)
    if file.is_file():
        return file
    if file.parent == pathlib.Path("configs"):
        names = packaged()
        if file.stem in names and file.suffix == ".py":
            return PACKAGED / file.name
        hint = did_you_mean(file.stem, names)
        raise ConfigError(
            f"--config={path}: there is no such file{hint}; the package has configs/{{{','.join(names)}}}.py"
        )
    raise ConfigError(f"--config={path}: there is no such file")


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    for part in path.split("."):
        match = _STEP.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"--config.{path}: not a path such as method.encoder_mask.ratio or data.transforms[0].size"
            )
        steps += [match[1], *(int(i) for i in re.findall(r"\d+", match[2]))]
    return steps


def _child(node: Any, key: str | int, path: str) -> Any:
    if isinstance(node, ConfigDict) and key in node:
        return node[str(key)]
    if isinstance(node, list) and isinstance(key, int):
        if key < len(node):
            return node[key]
        raise ConfigError(f"--config.{path}: the list has {len(node)} items")
    raise ConfigError(_unknown(path, str(key), node))


def _unknown(path: str, key: str, node: Any) -> str:
    keys = [k for k in node if k != "call"] if isinstance(node, ConfigDict) else []
    return (
        f"--config.{path}: there is no {key!r} here{did_you_mean(key, keys)}; there is {', '.join(keys) or 'nothing'}"
    )


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(
            {"true": "True", "false": "False", "null": "None", "none": "None"}.get(text.lower(), text)
        )
    except (ValueError, SyntaxError):
        return text


def _is_word(node: Any, key: str) -> bool:
    """Whether an argument is always text, so that "none" means that word (a remat policy) and not None."""
    parameter = inspect.signature(resolve(node.call)).parameters.get(key) if "call" in node else None
    return parameter is not None and parameter.annotation is str


def _assign(node: ConfigDict, key: str, text: str, path: str) -> None:
    try:
        kind = node.get_ref(key).get_type() if key in node else object
    except ValueError:  # a value of None without a type, such as `smoke` gives, can become anything
        kind = object
    value = text if kind is str and (text.lower() not in ("none", "null") or _is_word(node, key)) else _value(text)
    if (kind is int or key in ("steps", "examples")) and isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e3 steps
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, dict):
        value = ConfigDict(value)
    if kind is bool and not isinstance(value, bool):
        raise ConfigError(f"--config.{path}={text}: expected true or false")
    try:
        node[key] = value
    except TypeError:
        raise ConfigError(f"--config.{path}={text}: expected a value of type {kind.__name__}") from None
