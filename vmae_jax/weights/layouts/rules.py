"""Rules that carry a tower's parameters to the names and shapes of another program, and back.

A layout is a list of towers, parts of the parameter tree by name (encoder, decoder, head, …), each with the prefix of
its names there and a table of rules. A rule applies where the tower has its parameter, so optional parts (a class
token, learned positions, cosine attention) need no condition. Ours are float32 arrays in nested dicts; theirs a flat
dict of numpy arrays (a PyTorch state dict).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vmae_jax.patches import Patch

__all__ = [
    "FUSED",
    "MATRIX",
    "SAME",
    "TABLE",
    "TEMPERATURE",
    "TOKEN",
    "Conversion",
    "MismatchError",
    "Rule",
    "Tower",
    "cubes",
    "from_state",
    "linear",
    "nested",
    "norm",
    "paths",
    "to_state",
]


class MismatchError(ValueError):
    """Weights do not fit the model: missing, unexpected, or of another shape."""


class Conversion(NamedTuple):
    """The conversion of one array; of a stack of layers, that of one layer.

    Attributes:
      to_ours: (their array, our shape) -> our array.
      to_theirs: our array -> theirs.
    """

    to_ours: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


SAME = Conversion(lambda a, shape: a, lambda a: a)
MATRIX = Conversion(lambda a, shape: a.T, np.transpose)  # PyTorch has outputs before inputs
# [3 * width, width], outputs ordered (q k v, head, dim)  <->  [3, width, width], inputs before outputs
FUSED = Conversion(
    lambda a, shape: a.reshape(3, -1, a.shape[-1]).swapaxes(1, 2), lambda a: a.swapaxes(1, 2).reshape(-1, a.shape[1])
)
TEMPERATURE = Conversion(lambda a, shape: a.reshape(-1), lambda a: a.reshape(-1, 1, 1))
TABLE = Conversion(lambda a, shape: a.reshape(a.shape[-2:]), lambda a: a[None])  # [1, n, width]: positions, tokens
TOKEN = Conversion(lambda a, shape: a.reshape(-1), lambda a: a.reshape(1, 1, -1))


def cubes(patch: Patch, channels: int) -> Conversion:
    """Return a convolution [d c t y x] <-> a matrix whose rows are pixels in (t y x c) order.

    Weights of images have no axis t; they become cubes of one frame.
    """
    t, h, w = patch

    def to_ours(a: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        a = a[:, :, None] if a.ndim == 4 else a
        return a.transpose(2, 3, 4, 1, 0).reshape(-1, a.shape[0])

    def to_theirs(a: np.ndarray) -> np.ndarray:
        return a.reshape(t, h, w, channels, -1).transpose(4, 3, 0, 1, 2)

    return Conversion(to_ours, to_theirs)


class Rule(NamedTuple):
    """A parameter of a tower and its name elsewhere.

    Attributes:
      ours: its path in the tower, "embed/kernel".
      theirs: its name there, after the tower's prefix; "{}" counts the layers of a stacked parameter.
    """

    ours: str
    theirs: str
    convert: Conversion = SAME


class Tower(NamedTuple):
    """A part of the parameter tree.

    Attributes:
      path: in the tree, "encoder" or "frozen/teacher"; "" is the whole tree.
      prefix: of its names in the other program.
      rules: of its parameters.
    """

    path: str
    prefix: str
    rules: Sequence[Rule]


def nested(ours: str, theirs: str, rules: Sequence[Rule]) -> list[Rule]:
    """Return the rules of a module at its place in the tree; "{}" in `theirs` counts the layers of a stack."""
    return [Rule(f"{ours}/{rule.ours}", f"{theirs}.{rule.theirs}", rule.convert) for rule in rules]


def norm(ours: str, theirs: str) -> list[Rule]:
    """Return the rules of a layer norm."""
    return [Rule(f"{ours}/scale", f"{theirs}.weight"), Rule(f"{ours}/bias", f"{theirs}.bias")]


def linear(ours: str, theirs: str) -> list[Rule]:
    """Return the rules of a linear layer; the bias is optional on both sides."""
    return [Rule(f"{ours}/kernel", f"{theirs}.weight", MATRIX), Rule(f"{ours}/bias", f"{theirs}.bias")]


def from_state(state: Mapping[str, np.ndarray], towers: Sequence[Tower], template: Any) -> Any:
    """Return our parameters from a state dict.

    Args:
      state: under the names of the layout.
      towers: of the layout.
      template: our tree (arrays or shapes), for names and shapes.

    Raises:
      MismatchError: if a tensor is missing, left over or of another shape, or the layout has no place for one of ours.
    """
    tree: dict[str, Any] = {}
    used: set[str] = set()
    for path, rule, shape in _applied(template, towers):
        stacked = "{}" in rule.theirs
        names = [rule.theirs.format(i) for i in range(shape[0])] if stacked else [rule.theirs]
        missing = [name for name in names if name not in state]
        if missing:
            raise MismatchError(f"{missing[0]} is missing from the weights ({len(missing)} of its kind)")
        used.update(names)
        one = shape[1:] if stacked else shape
        arrays = [_converted(rule, np.asarray(state[name], np.float32), one, name, path) for name in names]
        _set(tree, path, np.stack(arrays) if stacked else arrays[0])
    left = sorted(set(state) - used)
    if left:
        raise MismatchError(f"the model has no place for {left[0]} ({len(left)} tensors are left over)")
    absent = sorted(set(_leaves(template)) - set(_leaves(tree)))
    if absent:
        raise MismatchError(f"the layout of the weights has no place for {absent[0]}, a parameter of the model")
    return tree


def to_state(params: Any, towers: Sequence[Tower]) -> dict[str, np.ndarray]:
    """Return the state dict of the parameters that the layout has a place for."""
    state = {}
    leaves = _leaves(params)
    for path, rule, shape in _applied(params, towers):
        value = np.asarray(leaves[path])
        if "{}" in rule.theirs:
            for i in range(shape[0]):
                state[rule.theirs.format(i)] = rule.convert.to_theirs(value[i])
        else:
            state[rule.theirs] = rule.convert.to_theirs(value)
    return state


def paths(params: Any, towers: Sequence[Tower]) -> set[str]:
    """Return the parameters that the layout has a name for, "encoder/embed/kernel"."""
    return {path for path, _, _ in _applied(params, towers)}


def _applied(tree: Any, towers: Sequence[Tower]) -> Iterator[tuple[str, Rule, tuple[int, ...]]]:
    """Yield the rules for the parameters of a tree: path, the rule with the tower's prefix, and shape."""
    leaves = _leaves(tree)
    for tower in towers:
        for rule in tower.rules:
            path = f"{tower.path}/{rule.ours}" if tower.path else rule.ours
            if path in leaves:
                yield path, rule._replace(theirs=tower.prefix + rule.theirs), tuple(leaves[path].shape)


def _converted(rule: Rule, array: np.ndarray, shape: tuple[int, ...], name: str, path: str) -> np.ndarray:
    try:
        value = rule.convert.to_ours(array, shape)
    except ValueError:
        value = None
    if value is None or value.shape != shape:
        found = list(array.shape) if value is None else list(value.shape)
        raise MismatchError(f"{name} gives {path} of shape {found}; the model has {list(shape)}")
    return value


def _leaves(tree: Any, above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{above}{name}"
        found |= _leaves(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return found


def _set(tree: dict[str, Any], path: str, value: np.ndarray) -> None:
    *above, last = path.split("/")
    for key in above:
        tree = tree.setdefault(key, {})
    tree[last] = value
