"""Beginning from other weights: a pre-trained encoder, a teacher; every array is accounted for."""

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


class Change(NamedTuple):
    """How a saved array was made to fit: "resized" or "sliced", and in words from what to what."""

    what: str
    how: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every array.

    Attributes:
      at: where the weights went.
      loaded: paths that were filled, below `at`.
      changed: those of them that are not as they were saved.
      kept: paths that stay as initialised, with the reason.
      unused: saved paths that went nowhere, with the reason.
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
            for what in ("resized", "sliced")
        }
        counts = [
            f"{len(self.loaded)} arrays loaded",
            *(f"{len(paths)} of them {what}" for what, paths in parts.items() if paths),
        ]
        counts += [f"{len(self.kept)} as initialised", f"{len(self.unused)} unused"]
        parts |= {"as initialised": list(self.kept), "unused": list(self.unused)}
        lines = [f"  {what}: {_some(paths)}" for what, paths in parts.items() if paths]
        return "\n".join([f"{self.at}: {', '.join(counts)}", *lines])

    def record(self) -> dict[str, Any]:
        """What became of every array, for JSON: those of the model by path below `at`, and those nobody took."""
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
) -> Weights:
    """Saved weights to begin from, as a config has them.

    Args:
      path: a workdir, or one checkpoint of it.
      select: the part of the saved state to take, such as "params/encoder".
      ema: take the average of the parameters instead of the parameters.
      skip: patterns of saved paths, below `select`, to leave out, such as "head".
      old_labels, new_labels: text files with the classes' names, one a line, of the saved head
        and of the new one, which takes over the rows of the same names (K710 to K400).
      channels: which kernels other numbers of channels get: "cycle" through the saved ones, scaled, or
        "keep" them and start the rest at zero.

    Raises:
      ValueError: no path, something else than parameters selected, one list of names alone.
    """
    if not path:
        raise ValueError("path: give a workdir, or a checkpoint of it")
    if select.split("/")[0] not in ("params", "frozen"):
        raise ValueError(f"select: 'params' or 'frozen', or a part of them such as 'params/encoder', not {select!r}")
    if isinstance(skip, str):
        raise ValueError(f"skip is a list of patterns; write [{skip!r}]")
    if (old_labels is None) != (new_labels is None):
        raise ValueError("old_labels and new_labels go together: the names of the saved classes and of the new ones")
    if channels not in CHANNELS:
        raise ValueError(f"channels={channels!r}: it is one of {', '.join(CHANNELS)}")
    return Weights(path, select.strip("/"), ema, tuple(skip), old_labels, new_labels, channels)


def graft(params: Params, at: str, tree: Params, *, skip: Sequence[str] = ()) -> tuple[Params, Report]:
    """`params` with the arrays of `tree` put at the path `at` ("" is the root).

    An array keeps the dtype and the sharding of the one it replaces.

    Args:
      params: nested dicts of arrays.
      at: a path in them, such as "params/encoder".
      tree: nested dicts of arrays, read from somewhere.
      skip: patterns of paths in `tree` to leave out.

    Raises:
      ConfigError: there is no such path, a shape differs, or nothing fits at all.
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
    """A fresh state that begins from saved weights.

    Args:
      state: at step 0; an average of its parameters begins anew from the result.
      spec: where -> which weights; "params", "frozen", or a path below one of them.
      read: gives the tree that `select` and `ema` of the weights name, as arrays on the host, and how those of
        its paths were changed that were.

    Returns:
      The state, and a report for each place.

    Raises:
      ConfigError: a place that does not exist, and all that `graft` refuses.
    """
    places = {"params": state.params, "frozen": state.frozen or {}}
    reports = []
    for at, record in spec.items():
        root = at.split("/")[0]
        if root not in places:
            raise ConfigError(f"init_from: {at!r} is no place; it begins with 'params' or 'frozen'")
        tree, changed = read(record)
        grafted, report = graft({root: places[root]}, at, tree, skip=record.skip)
        changed = {path: changed[path] for path in report.loaded if path in changed}
        reports.append(dataclasses.replace(report, changed=changed, weights=record))
        places[root] = grafted[root]
    extra = dict(state.extra)
    if "ema" in extra:
        extra["ema"] = jax.tree.map(jnp.copy, places["params"])
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
        told = "; ".join(wrong[:SHOWN])
        hint = "skip leaves arrays out; old_labels and new_labels take classes over by name"
        raise ConfigError(f"init_from: weights do not fit at {at!r}: {told}{more} ({hint})")


def _kind(leaf: Any) -> str:
    return "float" if jnp.issubdtype(leaf.dtype, jnp.floating) else str(leaf.dtype)


def _place(value: Any, like: Any) -> Any:
    """`value` in the dtype of `like` and, where that is an array on devices, where it is."""
    if not isinstance(like, jax.Array):
        return np.asarray(value).astype(like.dtype)
    if isinstance(value, jax.Array):
        return jax.device_put(value.astype(like.dtype), like.sharding)
    host = np.asarray(value).astype(like.dtype)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: host[index])


def _parents(flat: Mapping[str, Any]) -> list[str]:
    """The paths of two names at most, for an error."""
    return sorted({"/".join(path.split("/")[:2]) for path in flat})


def _some(paths: Iterable[str]) -> str:
    names = list(paths)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
