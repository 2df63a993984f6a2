"""Packages of the user whose registered components configs may name (`--plugins=PACKAGE`).

A plugin is imported because the user names it, never because a file does: a workdir records which plugins its
config names (`io.run_config`), so that a later command can ask for the option, and warn if their source changed.
"""

import hashlib
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Iterable

from vmae_jax import registry
from vmae_jax.errors import ConfigError

__all__ = ["NAME", "allow_plugins", "digest"]

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)


def allow_plugins(packages: Iterable[str]) -> None:
    """Let configs name what these packages register. The current folder is searched as by `python -m`.

    Raises:
      ConfigError: if there is no such package, or it has the name of one of vmae_jax's own.
    """
    for package in packages:
        if package in (*registry.COMPONENTS, registry.ROOT):
            raise ConfigError(f"--plugins={package}: vmae_jax has a package of that name itself; rename yours")
        if not NAME.fullmatch(package) or _origin(package) is None:
            raise ConfigError(
                f"--plugins={package}: there is no importable package of that name; it must be installed, or be in "
                "the current folder"
            )
        registry.admit(package)


def digest(package: str) -> str:
    """Return the SHA-256 of a package's Python source: the relative path and contents of every file.

    Raises:
      ConfigError: if there is no such package.
    """
    found = _origin(package)
    if found is None:
        raise ConfigError(f"--plugins={package}: there is no importable package of that name")
    total = hashlib.sha256()
    for name, file in found:
        content = file.read_bytes()
        total.update(f"{name}\0{len(content)}\0".encode(errors="surrogateescape") + content)
    return total.hexdigest()


def _origin(package: str) -> list[tuple[str, pathlib.Path]] | None:
    """Return the source files of a package by relative path, or None if there is no such package."""
    _search_current_folder(package)
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    folders = [pathlib.Path(folder) for folder in spec.submodule_search_locations or ()]
    if not folders:
        file = pathlib.Path(spec.origin or "")
        return [(file.name, file)] if file.is_file() else []
    files = {str(file.relative_to(folder)): file for folder in folders for file in folder.rglob("*.py")}
    return sorted(files.items())


def _search_current_folder(package: str) -> None:
    """Put the current folder first on the path, as `python -m` does, if the package is there."""
    here = pathlib.Path.cwd()
    there = (here / package).is_dir() or (here / f"{package}.py").is_file()
    if there and not any(os.path.abspath(entry) == str(here) for entry in sys.path):
        sys.path.insert(0, str(here))
