"""How a state lies in a checkpoint: nested names, a table of its leaves, a digest.

The arrays are stored as a nested dict of the names on the path to each leaf, so that neither
the containers of optax nor those of a method are part of the format. Beside them lies a JSON
document with the dtype, shape and fingerprint of every leaf and with what the trainer wants to
keep (data position, …), signed by its SHA-256.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vmae_jax.spec import ConfigError

__all__ = ["FORMAT", "Leaf", "compare", "describe", "document", "flat", "nest", "parse", "under"]

FORMAT = 1
_SHOWN = 4  # offending leaves named in an error


class Leaf(NamedTuple):
    """One row of a checkpoint's table of leaves."""

    dtype: str
    shape: tuple[int, ...]
    fingerprint: str = ""

    @property
    def empty(self) -> bool:
        """True when there is nothing to store, which the array store refuses to."""
        return math.prod(self.shape) == 0

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def flat(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by path, "params/encoder/kernel"; the order is that of `jax.tree`.

    Raises:
      ValueError: two leaves would have the same path.
    """
    leaves = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in leaves:
            raise ValueError(f"two leaves of the state are both called {name!r}")
        leaves[name] = leaf if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else _array(leaf)
    return leaves


def _array(leaf: Any) -> np.ndarray:
    """A number or a host array in the dtype it has as a jax array: float32 for Python's float."""
    array = np.asarray(leaf)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """`flat` names as a nested dict."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name!r} lies inside another leaf of the state")
        if last in node:
            raise ValueError(f"{name!r} is both a leaf of the state and a folder of leaves")
        node[last] = leaf
    return tree


def under(name: str, select: str) -> str | None:
    """`name` relative to the folder `select` ("" when it is `select` itself); None outside it."""
    if not select or name == select:
        return name if not select else ""
    return name[len(select) + 1 :] if name.startswith(select + "/") else None


def describe(leaves: Mapping[str, Any], fingerprints: Iterable[str] | None = None) -> dict[str, Leaf]:
    """The table of leaves of arrays, or of shapes and dtypes."""
    prints = list(fingerprints) if fingerprints is not None else [""] * len(leaves)
    rows = zip(leaves.items(), prints, strict=True)
    return {name: Leaf(str(leaf.dtype), tuple(leaf.shape), print_) for (name, leaf), print_ in rows}


def document(step: int, meta: Mapping[str, Any], leaves: Mapping[str, Leaf]) -> dict[str, Any]:
    """The JSON document of a checkpoint."""
    body = {
        "format": FORMAT,
        "step": step,
        "leaves": {name: [leaf.dtype, list(leaf.shape), leaf.fingerprint] for name, leaf in leaves.items()},
        "meta": dict(meta),
    }
    return body | {"digest": _digest(body)}


def parse(data: Any, step: int) -> tuple[dict[str, Any], dict[str, Leaf]]:
    """The trainer's part and the table of leaves of a document.

    Raises:
      ValueError: the document is not what was written, or of another step.
      ConfigError: it is of another version's format.
    """
    if not isinstance(data, dict) or "digest" not in data:
        raise ValueError("its table of leaves is missing")
    body = {key: value for key, value in data.items() if key != "digest"}
    if _digest(body) != data["digest"]:
        raise ValueError("its table of leaves does not match its digest")
    if body["format"] != FORMAT:
        raise ConfigError(f"a checkpoint of format {body['format']}: this version reads format {FORMAT}")
    if body["step"] != step:
        raise ValueError(f"it was written as step {body['step']}")
    leaves = {name: Leaf(dtype, tuple(shape), print_) for name, (dtype, shape, print_) in body["leaves"].items()}
    return body["meta"], leaves


def compare(stored: Mapping[str, Leaf], wanted: Mapping[str, Leaf], where: str) -> None:
    """Raises ConfigError, naming the first few, unless both have the same leaves, shapes and dtypes."""
    problems = [f"{name} is missing there ({wanted[name]} here)" for name in wanted if name not in stored]
    problems += [f"{name} is not known here ({stored[name]} there)" for name in stored if name not in wanted]
    for name in wanted.keys() & stored.keys():
        if stored[name][:2] != wanted[name][:2]:
            problems.append(f"{name} is {stored[name]} there, {wanted[name]} here")
    if problems:
        problems.sort()
        rest = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ConfigError(f"{where} does not fit this config: {'; '.join(problems[:_SHOWN])}{rest}")


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
