"""The layout of a state in a checkpoint: nested names, a table of its leaves, a digest.

The arrays are stored as a nested dict of the names on the path to each leaf, so neither
the containers of optax nor those of a method are part of the format. A JSON document stores the dtype, shape and
fingerprint of every leaf and the metadata of the trainer (data position, …), with their SHA-256.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.spec import ConfigError

__all__ = ["FORMAT", "Leaf", "compare", "describe", "document", "flat", "nest", "parse", "under"]

FORMAT = 1
DTYPES = frozenset(
    str(jnp.dtype(name))
    for name in (
        *("bool", "complex64", "complex128", "bfloat16", "float16", "float32", "float64", "float4_e2m1fn"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (2, 4, 8, 16, 32, 64)),
        *("float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz"),
        *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
)
_DIMENSIONS = 32
_ELEMENTS = 1 << 50
_SHOWN = 4  # offending leaves named in an error


class Leaf(NamedTuple):
    """One row of a checkpoint's table of leaves."""

    dtype: str
    shape: tuple[int, ...]
    fingerprint: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to store; the array store refuses empty arrays."""
        return math.prod(self.shape) == 0

    @property
    def typed(self) -> bool:
        """Whether it is a key of `jax.random`, which is stored as 32-bit words in an additional dimension."""
        return self.dtype not in DTYPES

    @property
    def bytes(self) -> int:
        """Bytes in memory, counting at most 16 words per key."""
        return math.prod(self.shape) * (64 if self.typed else jnp.dtype(self.dtype).itemsize)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def flat(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by path, such as "params/encoder/kernel", in the order of `jax.tree`.

    Raises:
      ValueError: if two leaves would have the same path.
    """
    leaves = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in leaves:
            raise ValueError(f"two leaves of the state are both called {name!r}")
        leaves[name] = leaf if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else _array(leaf)
    return leaves


def _array(leaf: Any) -> np.ndarray:
    """Return a number or a host array with the dtype of the corresponding jax array: float32 for Python floats."""
    array = np.asarray(leaf)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Return `flat` names as a nested dict."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name!r} is inside another leaf of the state")
        if last in node:
            raise ValueError(f"{name!r} is both a leaf of the state and a folder of leaves")
        node[last] = leaf
    return tree


def under(name: str, select: str) -> str | None:
    """Return `name` relative to the folder `select` ("" for `select` itself), or None outside of it."""
    if not select or name == select:
        return name if not select else ""
    return name[len(select) + 1 :] if name.startswith(select + "/") else None


def describe(leaves: Mapping[str, Any], fingerprints: Iterable[str] | None = None) -> dict[str, Leaf]:
    """Return the table of leaves of arrays, or of shapes and dtypes."""
    prints = list(fingerprints) if fingerprints is not None else [""] * len(leaves)
    rows = zip(leaves.items(), prints, strict=True)
    return {name: Leaf(str(leaf.dtype), tuple(leaf.shape), print_) for (name, leaf), print_ in rows}


def document(step: int, meta: Mapping[str, Any], leaves: Mapping[str, Leaf]) -> dict[str, Any]:
    """Return the JSON document of a checkpoint."""
    body = {
        "format": FORMAT,
        "step": step,
        "leaves": {name: [leaf.dtype, list(leaf.shape), leaf.fingerprint] for name, leaf in leaves.items()},
        "meta": dict(meta),
    }
    return body | {"digest": _digest(body)}


def parse(data: Any, step: int) -> tuple[dict[str, Any], dict[str, Leaf]]:
    """Return the trainer's part and the table of leaves of a document.

    Raises:
      ValueError: if the document was changed, or is that of another step.
      ConfigError: if its format is that of another version.
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
    if not isinstance(body["leaves"], dict) or not isinstance(body["meta"], dict):
        raise ValueError("its table of leaves has no rows")
    leaves = {name: _leaf(name, row) for name, row in body["leaves"].items()}
    nest(leaves)
    return body["meta"], leaves


def _leaf(name: str, row: Any) -> Leaf:
    """Return a row of the table of an untrusted file, after checking that it describes an array of numbers."""
    if not isinstance(row, list) or len(row) != 3:
        raise ValueError(f"{name!r} has a row that is not [dtype, shape, fingerprint]")
    dtype, shape, print_ = row
    if not isinstance(dtype, str) or not (dtype in DTYPES or dtype.startswith("key<")):
        raise ValueError(f"{name!r} has the dtype {dtype!r}, which no array of a state has")
    sizes = isinstance(shape, list) and len(shape) <= _DIMENSIONS and all(type(n) is int and n >= 0 for n in shape)
    if not sizes or math.prod(max(n, 1) for n in shape) > _ELEMENTS:
        raise ValueError(f"{name!r} has the shape {str(shape)[:80]}, which no array has")
    leaf = Leaf(dtype, tuple(shape), print_)
    if not isinstance(print_, str) or (leaf.empty and dtype not in DTYPES):
        raise ValueError(f"{name!r} is not a leaf of a state")
    return leaf


def compare(stored: Mapping[str, Leaf], wanted: Mapping[str, Leaf], where: str) -> None:
    """Raise ConfigError, naming the first few, unless both have the same leaves, shapes and dtypes."""
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
