"""Initialization from saved weights, such as a pre-trained encoder or a teacher, with a report about every array."""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vmae_jax.registry import register
from vmae_jax.spec import ConfigError
from vmae_jax.train.state import TrainState
from vmae_jax.types import Params

__all__ = ["Change", "Report", "Weights", "apply", "graft", "weights"]

SHOWN = 5  # names that an error or a summary lists
CHANNELS = ("cycle", "keep")


@dataclasses.dataclass(frozen=True)
class Weights:
    """Which saved weights; the attributes are the arguments of `weights`."""

    path: str
    select: str
    ema: bool
    skip: tuple[str, ...]
    old_labels: str | None = None
    new_labels: str | None = None
    channels: str = "cycle"
    then: str | None = None


class Change(NamedTuple):
    """How a saved array was changed to fit: "resized", "continued" or "sliced", and a description."""

    what: str
    how: str


@dataclasses.dataclass(frozen=True)
class Report:
    """The source of every array of a place, and the saved arrays that were not used.

    Attributes:
      at: the place.
      loaded: paths below `at` that were loaded.
      changed: those of them that were changed to fit.
      kept: paths that stay as initialized, with the reason.
      unused: saved paths that were not used, with the reason.
    """

    at: str
    loaded: tuple[str, ...]
    kept: Mapping[str, str]
    unused: Mapping[str, str]
    changed: Mapping[str, Change] = dataclasses.field(default_factory=dict)
    weights: Weights | None = None

    def __str__(self) -> str:
        """A few lines; `record` has every array."""
        parts = {
            what: [path for path, change in self.changed.items() if change.what == what]
            for what in ("resized", "continued", "sliced")
        }
        counts = [
            f"{len(self.loaded)} arrays loaded",
            *(f"{len(paths)} of them {what}" for what, paths in parts.items() if paths),
        ]
        counts += [f"{len(self.kept)} as initialized", f"{len(self.unused)} unused"]
        parts |= {"as initialized": list(self.kept), "unused": list(self.unused)}
        lines = [f"  {what}: {_some(paths)}" for what, paths in parts.items() if paths]
        return "\n".join([f"{self.at}: {', '.join(counts)}", *lines])

    def record(self) -> dict[str, Any]:
        """Return the report for JSON: the arrays of the model by path below `at`, and the unused ones."""
        became = {
            path: {"became": change.what, "how": change.how}
            if (change := self.changed.get(path))
            else {"became": "as is"}
            for path in self.loaded
        }
        became |= {path: {"became": "fresh", "how": reason} for path, reason in self.kept.items()}
        source = dataclasses.asdict(self.weights) if self.weights else None
        return {"weights": source, "arrays": dict(sorted(became.items())), "unused": dict(sorted(self.unused.items()))}


@register("weights")
def weights(
    path: str,
    select: str = "params",
    ema: bool = False,
    skip: Sequence[str] = (),
    old_labels: str | None = None,
    new_labels: str | None = None,
    channels: str = "cycle",
    then: str | None = None,
) -> Weights:
    """Saved weights to initialize from.

    Args:
      path: a workdir, or one checkpoint of it.
      select: the part of the saved state to take, such as "params/encoder".
      ema: take the average of the parameters instead of the parameters.
      skip: patterns of saved paths, below `select`, to leave out, such as "head".
      old_labels, new_labels: text files with the class names, one per line, of the saved head
        and of the new one, whose rows are copied from those of the same names (K710 to K400).
      channels: the kernels of another number of channels: "cycle" through the saved ones, scaled, or
        "keep" them and start the others at zero.
      then: another part of the saved state, whose blocks follow those of `select`, such as the joint blocks
        "params/fusion" above the blocks of an encoder.

    Raises:
      ValueError: if there is no path, other things than parameters are selected, or only one list of names is given.
    """
    if not path:
        raise ValueError("path: give a workdir, or a checkpoint of it")
    if select.split("/")[0] not in ("params", "frozen"):
        raise ValueError(
            f"select must be 'params' or 'frozen', or a part of them such as 'params/encoder', got {select!r}"
        )
    if then is not None and then.split("/")[0] not in ("params", "frozen"):
        raise ValueError(f"then must be a part of 'params' or 'frozen', such as 'params/fusion', got {then!r}")
    if isinstance(skip, str):
        raise ValueError(f"skip is a list of patterns; write [{skip!r}]")
    if (old_labels is None) != (new_labels is None):
        raise ValueError("old_labels and new_labels go together: the names of the saved classes and of the new ones")
    if channels not in CHANNELS:
        raise ValueError(f"channels={channels!r}: expected one of {', '.join(CHANNELS)}")
    then = then and then.strip("/")
    return Weights(path, select.strip("/"), ema, tuple(skip), old_labels, new_labels, channels, then)


def graft(params: Params, at: str, tree: Params, *, skip: Sequence[str] = ()) -> tuple[Params, Report]:
    """Return `params` with the arrays of `tree` at the path `at` ("" is the root), and a report.

    An array takes the dtype and the sharding of the one that it replaces.

    Args:
      params: nested dicts of arrays.
      at: a path in them, such as "params/encoder".
      tree: nested dicts of the new arrays.
      skip: patterns of paths in `tree` to leave out.

    Raises:
      ConfigError: if there is no such path, a shape differs, or nothing fits.
    """
    flat, found = flatten_dict(params, sep="/"), flatten_dict(tree, sep="/")
    prefix = f"{at}/" if at else ""
    below = {path.removeprefix(prefix): leaf for path, leaf in flat.items() if path.startswith(prefix)}
    if not below:
        raise ConfigError(f"init_from: there is nothing at {at!r}; there are {', '.join(_parents(flat))}")
    skipped = _skipped(found, skip)
    used = {path: leaf for path, leaf in found.items() if path in below and path not in skipped}
    _check(at, {path: (below[path], leaf) for path, leaf in used.items()})
    if not used:
        raise ConfigError(
            f"init_from: nothing fits at {at!r}; the weights have {_some(found)}, the model {_some(below)}: "
            f"choose another part of them with select"
        )
    filled = {f"{prefix}{path}": _place(leaf, below[path]) for path, leaf in used.items()}
    report = Report(
        at=at,
        loaded=tuple(used),
        kept={p: "left out by skip" if p in skipped else "not in the weights" for p in below if p not in used},
        unused={p: "left out by skip" if p in skipped else "not in the model" for p in found if p not in used},
    )
    return unflatten_dict(flat | filled, sep="/"), report


def apply(
    state: TrainState,
    spec: Mapping[str, Weights],
    read: Callable[[Weights], tuple[Params, Mapping[str, Change]]],
) -> tuple[TrainState, tuple[Report, ...]]:
    """Load saved weights into a fresh state.

    Args:
      state: at step 0; an average of its parameters is set to the result.
      spec: the weights of each place: "params", "frozen", "average", or a path below one of them.
      read: returns the tree that `select` and `ema` of the weights name, as arrays on the host, and the changes
        by path.

    Returns:
      The state, and a report for each place.

    Raises:
      ConfigError: if a place does not exist, or `graft` refuses the weights.
    """
    places = {"params": state.params, "frozen": state.frozen or {}}
    averaged = "ema" in state.extra
    reports = []
    for at, record in sorted(spec.items(), key=lambda item: item[0].split("/")[0] == "average"):
        root = at.split("/")[0]
        if root == "average" and averaged and root not in places:
            places[root] = jax.tree.map(jnp.copy, places["params"])
        if root not in places:
            more = "; without train.ema_decay there is no average" if root == "average" else ""
            raise ConfigError(
                f"init_from: there is no place {at!r}; places begin with 'params', 'frozen' or 'average'{more}"
            )
        tree, changed = read(record)
        grafted, report = graft({root: places[root]}, at, tree, skip=record.skip)
        changed = {path: changed[path] for path in report.loaded if path in changed}
        reports.append(dataclasses.replace(report, changed=changed, weights=record))
        places[root] = grafted[root]
    extra = dict(state.extra)
    if averaged:
        extra["ema"] = places.get("average") or jax.tree.map(jnp.copy, places["params"])
    frozen = places["frozen"] if state.frozen else state.frozen
    return dataclasses.replace(state, params=places["params"], frozen=frozen, extra=extra), tuple(reports)


def _skipped(paths: Mapping[str, Any], patterns: Sequence[str]) -> set[str]:
    skipped: set[str] = set()
    for pattern in patterns:
        match = {p for p in paths if fnmatch.fnmatchcase(p, pattern) or fnmatch.fnmatchcase(p, f"{pattern}/*")}
        if not match:
            raise ConfigError(f"init_from: skip={pattern!r} matches nothing in the weights, which have {_some(paths)}")
        skipped |= match
    return skipped


def _check(at: str, pairs: Mapping[str, tuple[Any, Any]]) -> None:
    wrong = [
        f"{path} is {leaf.dtype}{list(leaf.shape)}, the model's {mine.dtype}{list(mine.shape)}"
        for path, (mine, leaf) in pairs.items()
        if tuple(leaf.shape) != tuple(mine.shape) or _kind(leaf) != _kind(mine)
    ]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        shown = "; ".join(wrong[:SHOWN])
        hint = "skip leaves arrays out; old_labels and new_labels match classes by name"
        raise ConfigError(f"init_from: weights do not fit at {at!r}: {shown}{more} ({hint})")


def _kind(leaf: Any) -> str:
    return "float" if jnp.issubdtype(leaf.dtype, jnp.floating) else str(leaf.dtype)


def _place(value: Any, like: Any) -> Any:
    """Return `value` with the dtype and, if it is on devices, the sharding of `like`."""
    if not isinstance(like, jax.Array):
        return np.asarray(value).astype(like.dtype)
    if isinstance(value, jax.Array):
        return jax.device_put(value.astype(like.dtype), like.sharding)
    host = np.asarray(value).astype(like.dtype)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: host[index])


def _parents(flat: Mapping[str, Any]) -> list[str]:
    """Return the paths of at most two names, for an error."""
    return sorted({"/".join(path.split("/")[:2]) for path in flat})


def _some(paths: Iterable[str]) -> str:
    names = list(paths)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
