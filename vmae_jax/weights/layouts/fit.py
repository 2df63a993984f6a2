"""Weights in the official names, fitted to one of our models, with a record of every tensor."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vmae_jax.types import Grid
from vmae_jax.weights.layouts import resize
from vmae_jax.weights.layouts.dims import Dims, dims_of, unlike
from vmae_jax.weights.layouts.names import Weights
from vmae_jax.weights.layouts.prefix import prefixes, projection
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.layouts.videomae import Facts, from_official, to_official

__all__ = ["COMPUTED", "PARTS", "Account", "fit", "sinusoid"]

PARTS = ("decoder", "head", "norm", "positions", "prefix")
TABLES = ("pos_embed", "pos_embed_spatial", "pos_embed_temporal")
COMPUTED = "the positions that the model computes"
UNUSED = {
    "decoder": "the model has no decoder",
    "head": "the model has no classification head",
    "norm": "the model norms elsewhere: a classifier after the mean, a pre-training encoder before it",
}


class Account(NamedTuple):
    """The record of every tensor.

    Attributes:
      used: official names that were loaded.
      fresh: names that stay as initialized, as requested.
      dropped: names of the file that were not used, with the reason.
      changed: names that were resampled or inflated, with a description.
    """

    used: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: dict[str, str]
    changed: dict[str, str]


def fit(
    weights: Weights,
    facts: Facts,
    template: Any,
    grid: Grid,
    *,
    fresh: Sequence[str] = (),
    resized: bool = False,
    inflation: str = "average",
    channels: str = "cycle",
) -> tuple[Any, Account]:
    """Return our parameters from weights of any family.

    Args:
      weights: from `names.official`.
      facts: of the model.
      template: initialized parameters of the model, nested dicts of arrays.
      grid: the model's tokens.
      fresh: parts of `PARTS` to initialize, even if the file has them.
      resized: resample cubes, channels and learned positions that differ.
      inflation: of an image model's patch embedding, "average" or "central".
      channels: the kernels of new channels, "cycle" or "keep" (`resize`).

    Raises:
      MismatchError: if the weights are those of another model, or lack a part that `fresh` does not name.
    """
    unknown = sorted(set(fresh) - set(PARTS))
    if unknown:
        raise MismatchError(f"there is no part {unknown[0]!r} to initialize: {', '.join(PARTS)}")
    target = to_official(template, facts)
    want, dropped, changed = dims_of(target), dict(weights.dropped), {}
    state = _same_parts(weights, want, fresh, dropped)
    prefixes(state, target, facts, fresh, dropped, changed)
    _inflate(state, want, inflation, changed)
    have = dims_of(state, want.kind)
    unlike(have, want, resized=resized)
    if resized:
        _resample(state, have, want, channels, changed)
    projection(state, target, changed)
    _positions(state, target, weights, grid, facts=facts, resized=resized, dropped=dropped, changed=changed)
    _biases(state, target, weights.about, changed)
    anew = _missing(state, target, fresh)
    _same_shapes(state, target)
    params = from_official(state | anew, facts, template)
    return params, Account(tuple(sorted(state)), tuple(sorted(anew)), dropped, changed)


def sinusoid(n: int, width: int) -> np.ndarray:
    """Return the fixed positions of VideoMAE, [n width]."""
    channel = np.arange(width)
    angle = np.arange(n)[:, None] / np.power(10000.0, 2 * (channel // 2) / width)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def _part(name: str) -> str:
    if name.startswith(("decoder.", "encoder_to_decoder.")) or name == "mask_token":
        return "decoder"
    if name.rpartition(".")[2] in TABLES:
        return "positions"
    if name.endswith(("cls_token", "pos_embed_class")):
        return "prefix"
    stem = name.removeprefix("encoder.").partition(".")[0]
    return {"head": "head", "fc_norm": "norm", "norm": "norm"}.get(stem, "encoder")


def _same_parts(weights: Weights, want: Dims, fresh: Sequence[str], dropped: dict[str, str]) -> dict[str, np.ndarray]:
    """Return the tensors of the parts that the model has, under the names of its kind."""
    source, prefix = ("", "encoder.")[weights.kind != "classifier"], ("", "encoder.")[want.kind != "classifier"]
    wanted_norm = "fc_norm." if want.kind == "classifier" else "encoder.norm."
    state = {}
    for name, array in weights.state.items():
        part = _part(name)
        if part in ("encoder", "positions", "prefix") or name.startswith("encoder.norm."):
            ours = prefix + name.removeprefix(source)
        else:
            ours = name
        if part in fresh:
            dropped[name] = f"the model's {part} is initialized, as requested"
        elif (
            (part == "decoder" and want.kind != "pretraining")
            or (part == "head" and want.kind != "classifier")
            or (part == "norm" and not name.startswith(wanted_norm))
        ):
            dropped[name] = UNUSED[part]
        else:
            state[ours] = np.asarray(array, np.float32)
    return state


def _embedding(want: Dims) -> str:
    return f"{'' if want.kind == 'classifier' else 'encoder.'}patch_embed.proj.weight"


def _inflate(state: dict[str, np.ndarray], want: Dims, rule: str, changed: dict[str, str]) -> None:
    name = _embedding(want)
    if name in state and state[name].ndim == 4:
        state[name] = resize.inflate(state[name], want.tubelet, rule)
        if want.tubelet > 1:
            changed[name] = f"an image's, inflated to {want.tubelet} frames ({rule})"


def _resample(state: dict[str, np.ndarray], have: Dims, want: Dims, rule: str, changed: dict[str, str]) -> None:
    old, new = (have.tubelet, have.patch, have.patch), (want.tubelet, want.patch, want.patch)
    if (*old, have.channels) == (*new, want.channels):
        return
    name, shape = _embedding(want), "x".join(map(str, (*new, want.channels)))
    state[name] = resize.embedding(state[name], new, want.channels, rule=rule)
    changed[name] = f"resampled to cubes of {shape} (t x y x c; PI-resize, channels: {rule})"
    if "decoder.head.weight" in state:
        both = state["decoder.head.weight"], state["decoder.head.bias"]
        sizes = (*old, have.channels), (*new, want.channels)
        state["decoder.head.weight"], state["decoder.head.bias"] = resize.head(*both, *sizes)
        changed["decoder.head"] = f"resampled to predict cubes of {shape}"


def _positions(
    state: dict[str, np.ndarray],
    target: Mapping[str, np.ndarray],
    weights: Weights,
    grid: Grid,
    *,
    facts: Facts,
    resized: bool,
    dropped: dict[str, str],
    changed: dict[str, str],
) -> None:
    """Learned positions of the file as the model has them, or dropped where it computes its own."""
    for prefix in ("", "encoder.", "decoder."):
        have = {name: state.pop(prefix + name) for name in TABLES if prefix + name in state}
        want = {name: target[prefix + name].shape[1:] for name in TABLES if prefix + name in target}
        if not have:
            continue
        if not want:
            _needless(prefix, have, weights, facts, dropped)
            continue
        old = _old_grid(have, grid)
        a_pictures = (old.t, old.h, old.w) == (1, grid.h, grid.w)  # repeated in time, as it is
        if old != grid and not resized and not a_pictures:
            raise MismatchError(
                f"{prefix}{next(iter(have))} is for a grid of {old} tokens, the model has {grid}: --resize resizes it"
            )
        for name, table in _tables(have, want, old, grid).items():
            if name not in have or old != grid:
                changed[prefix + name] = f"for a grid of {grid} tokens, from {' and '.join(have)} of {old}"
            state[prefix + name] = table[None]


def _needless(
    prefix: str, have: Mapping[str, np.ndarray], weights: Weights, facts: Facts, dropped: dict[str, str]
) -> None:
    computed = facts.tables.get("decoder" if prefix == "decoder." else "encoder")
    for name, table in have.items():
        same = (
            name == "pos_embed"
            and computed is not None
            and computed.shape == table.shape[1:]
            and np.abs(table[0] - computed).max() < 1e-4
        )
        if not same and weights.family not in ("mae", "mae-st"):
            raise MismatchError(
                f"{prefix}{name}: the weights have learned positions, the model computes its own: "
                f"use positions=call('models.positions.learned')"
            )
        dropped[prefix + name] = COMPUTED if same else "the model computes its positions (it is no longer MAE's)"


def _old_grid(have: Mapping[str, np.ndarray], grid: Grid) -> Grid:
    if "pos_embed" in have:
        return _grid(have["pos_embed"].shape[1], grid)
    if len(have) == 1:
        raise MismatchError(f"the weights have {next(iter(have))}, and not the positions of the other axis")
    slot = _grid(have["pos_embed_spatial"].shape[1], Grid(1, grid.h, grid.w))
    return Grid(have["pos_embed_temporal"].shape[1], slot.h, slot.w)


def _tables(
    have: Mapping[str, np.ndarray], want: Mapping[str, tuple[int, ...]], old: Grid, grid: Grid
) -> dict[str, np.ndarray]:
    """The tables that the model wants, on its grid."""
    if "pos_embed" in have:
        full = have["pos_embed"][0]
        if "pos_embed" in want:
            return {"pos_embed": resize.positions(full, old, grid)}
        by_time = full.reshape(old.t, old.slot, -1)
        space, time = by_time.mean(axis=0), by_time.mean(axis=1) - by_time.mean(axis=(0, 1))
    else:
        space, time = have["pos_embed_spatial"][0], have["pos_embed_temporal"][0]
    space = resize.positions(space, Grid(1, old.h, old.w), Grid(1, grid.h, grid.w))
    time = resize.positions(time, Grid(old.t, 1, 1), Grid(grid.t, 1, 1))
    if "pos_embed" in want:
        return {"pos_embed": (space[None] + time[:, None]).reshape(grid.size, -1)}
    return {"pos_embed_spatial": space, "pos_embed_temporal": time}


def _grid(n: int, grid: Grid) -> Grid:
    """The grid of a table of `n` positions: the model's, another resolution, or a picture's."""
    if n == grid.size:
        return grid
    for t in (grid.t, 1, *(t for t in range(2, 65) if t != grid.t)):
        side = math.isqrt(n // t) if n % t == 0 else 0
        if side and side * side * t == n:
            return Grid(t, side, side)
    raise MismatchError(f"a table of {n} positions is that of no square grid")


def _biases(
    state: dict[str, np.ndarray], target: Mapping[str, np.ndarray], about: Mapping[str, Any], changed: dict[str, str]
) -> None:
    """Return zero biases, only if the weights' own config has none."""
    if about.get("qkv_bias", about.get("qv_bias", True)):
        return
    for name, array in target.items():
        if name.endswith(("attn.q_bias", "attn.v_bias")) and name not in state:
            state[name] = np.zeros_like(array)
            changed[name] = "zeros: the weights' config has qkv_bias false"


def _same_shapes(state: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray]) -> None:
    for name, array in state.items():
        if name in target and array.shape != target[name].shape:
            part = _part(name)
            hint = f": --fresh={part} begins with a new one" if part in PARTS else ""
            shapes = f"{list(array.shape)}, the model's has {list(target[name].shape)}"
            raise MismatchError(f"{name} has shape {shapes}{hint}")


def _missing(
    state: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray], fresh: Sequence[str]
) -> dict[str, np.ndarray]:
    absent = {name: array for name, array in target.items() if name not in state}
    for name in absent:
        part = _part(name)
        if part not in fresh:
            hint = f": --fresh={part} begins with a new one" if part in PARTS else ""
            raise MismatchError(f"the weights have no {name} ({len(absent)} tensors are missing){hint}")
    return absent
