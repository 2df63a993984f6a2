"""A cache on disk of the figures of compiled programs, because compiling one takes minutes.

The key is the program before compilation, with the topology and the versions of the compilers, so it changes with
the config and the code.
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
FORMAT = 5  # of the stored figures; it is part of the key


def entry(folder: Any, program: str, topology: str) -> pathlib.Path:
    """Return the file of a program's figures.

    Args:
      folder: of the cache; need not exist.
      program: its text before compilation.
      topology: the name of the hardware.
    """
    versions = {name: _version(name) for name in ("jax", "jaxlib", "libtpu")}
    flags = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    if topology.startswith("cpu"):
        flags["XLA_FLAGS"] = ""  # for CPUs it is the number of devices, which the topology has
    context = json.dumps([FORMAT, topology, versions, flags], sort_keys=True)
    return pathlib.Path(folder) / f"{hashlib.sha256((context + program).encode()).hexdigest()}.json"


def read(path: pathlib.Path, kind: type) -> Any:
    """Return what `write` stored, as a `kind`, or None if it cannot be read."""
    try:
        return _revive(json.loads(path.read_text()), kind)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s cannot be read and is computed again: %s", path, error)
        return None


def write(path: pathlib.Path, value: Any) -> None:
    """Store named tuples and dataclasses of plain values; if the disk refuses, log a warning."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(_plain(value)))
        temporary.replace(path)
    except OSError as error:
        log.warning("%s could not be written: %s", path, error)


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
    """Return plain values as the type of a type hint."""
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
