"""What was found out about a program, kept on disk: compiling it again would take minutes to say the same.

The key is the program itself, as it is given to the compiler, with the topology and the versions of
the compilers: a change of the config or of the code makes another one.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
import types
import typing
from typing import Any

__all__ = ["entry", "read", "write"]

log = logging.getLogger(__name__)
FORMAT = 2  # of what is kept; another number makes another key


def entry(folder: Any, program: str, topology: str) -> pathlib.Path:
    """The file of a program's results.

    Args:
      folder: of the cache; need not exist.
      program: its text before compilation.
      topology: the name of the hardware.
    """
    versions = {name: _version(name) for name in ("jax", "jaxlib", "libtpu")}
    flags = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    if topology.startswith("cpu"):
        flags["XLA_FLAGS"] = ""  # there it says how many devices there are, as the topology does
    told = json.dumps([FORMAT, topology, versions, flags], sort_keys=True)
    return pathlib.Path(folder) / f"{hashlib.sha256((told + program).encode()).hexdigest()}.json"


def read(path: pathlib.Path, kind: type) -> Any:
    """What `write` wrote, as a `kind`; None where there is nothing that can be read."""
    try:
        return _revive(json.loads(path.read_text()), kind)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s cannot be read and is made again: %s", path, error)
        return None


def write(path: pathlib.Path, value: Any) -> None:
    """Keeps named tuples and dataclasses of plain values; a disk that refuses costs time only, and is told."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(_plain(value)))
        temporary.replace(path)
    except OSError as error:
        log.warning("%s: not kept: %s", path, error)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _revive(value: Any, hint: Any) -> Any:
    """Plain values as what a type hint says."""
    kind: Any = hint
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _revive(value, next(one for one in inner if one is not type(None)))
    if origin is dict:
        return {key: _revive(item, inner[1]) for key, item in value.items()}
    if origin is tuple:
        each = [inner[0]] * len(value) if inner[1:] == (...,) else inner
        return tuple(_revive(item, one) for item, one in zip(value, each, strict=True))
    if hasattr(kind, "_fields") or dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _revive(item, hints[name]) for name, item in value.items()})
    return value
