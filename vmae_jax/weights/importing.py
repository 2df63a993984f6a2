"""`vmae import`: published weights as a workdir, whose outputs are compared with the original."""

# pyright: reportMissingImports=false
# PyTorch and transformers are optional.

import importlib.metadata
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from vmae_jax.io.checkpoint import Checkpoints, SaveError
from vmae_jax.io.paths import Workdir
from vmae_jax.io.run_config import write_config
from vmae_jax.spec import ConfigError
from vmae_jax.weights import own, torch_network, verify
from vmae_jax.weights.by_names import by_names
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.formats.atomic import NotWrittenError, replaced
from vmae_jax.weights.formats.checks import shown
from vmae_jax.weights.infer import config_of
from vmae_jax.weights.layouts import names
from vmae_jax.weights.layouts.fit import COMPUTED, Account, fit
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.layouts.videomae import to_official
from vmae_jax.weights.resizing import resized
from vmae_jax.weights.subject import Subject, fresh_params, leaves, normalized, outputs, probe, published, subject

__all__ = ["import_weights"]

_ROW_BYTES = 1 << 30  # of all streams of one example


def import_weights(
    weights: Any,
    *,
    out: Any,
    config: ConfigDict | None = None,
    key: str | None = None,
    fresh: Sequence[str] = (),
    resize: bool = False,
    inflation: str = "average",
    channels: str = "cycle",
    clip: np.ndarray | None = None,
    make_state: Callable[[Any, Any], Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Create a workdir (config.json and checkpoint 0) from weights in any known layout.

    Args:
      weights: a `.pth`, `.safetensors` or index of shards, or a folder with one.
      out: the workdir, which must be empty or absent.
      config: of the experiment; None writes one with only the `method` of the weights, and `commands.restore`
        adds the other sections.
      key: the entry of a `.pth` to take, such as "model_ema"; None finds it.
      fresh: parts to initialize instead: "decoder", "head", "norm", "positions".
      resize: resample cubes, channels and learned positions that differ from the config's.
      inflation: of an image model's patch embedding, "average" or "central".
      channels: which kernels other numbers of channels get, "cycle" or "keep".
      clip: a real clip, uint8 [t h w c], compared beside a random one.
      make_state: (params, their average or None) -> the state to save, such as a whole `TrainState` at step 0; by
        default the two alone, which evaluation, features, export and `init_from` read.
      seed: of the initialized parts.

    Returns:
      a report that JSON can hold: "out", "family", "kind", "used", "fresh", "dropped", "changed",
      "notes", "checked_by", "largest_difference", "differences", "not_checked".

    Raises:
      ConfigError: if the import is not possible; nothing was written.
    """
    out = pathlib.Path(out)
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise ConfigError(f"--out={out} is not empty; an import creates a new workdir")
    try:
        file, given = tensors.read_file(weights, key=key), config is not None
        if own.is_own(file):
            return _import_own(file, config, out, str(weights), fresh, resize, channels, make_state, seed)
        if (taken := by_names(file, config, changed=bool(fresh or resize))) is not None:
            state = (make_state or _alone) if taken.trainable else _alone
            with replaced(out) as new:
                _write(new, taken.config, state(taken.params, taken.average), str(weights))
            report = _report(out, taken.params, family=taken.family, given=given, dropped=taken.dropped)
            return report | taken.facts
        found = names.official(file)
        one = subject(config if config is not None else config_of(found))
        published(one, f"weights of the family {found.family} are of published models")
        params, account = fit(
            found,
            one.facts,
            fresh_params(one, seed if fresh else None),
            one.model.grid,
            fresh=fresh,
            resized=resize,
            inflation=inflation,
            channels=channels,
        )
        _same_function(one, found)
        checks = _verify(one, params, found, account, probe(one, clip))
        with replaced(out) as new:
            _write(new, one.config, (make_state or _alone)(params, None), str(weights))
    except (MismatchError, NotWrittenError, tensors.UnreadableFileError, SaveError) as error:
        text = str(error)
        raise ConfigError(f"import: {text if str(weights) in text else f'{weights}: {text}'}") from None
    return {
        "out": str(out),
        "family": found.family,
        "kind": found.kind,
        "config": "as given" if given else "made from the weights",
        "parameters": int(sum(array.size for array in leaves(params).values())),
        "used": len(account.used),
        "fresh": list(account.fresh),
        "dropped": account.dropped,
        "changed": account.changed,
        "notes": _notes(one, found),
        "compared_on": ["a random clip"] + (["a real clip"] if clip is not None else []),
        **checks,
    }


def _import_own(
    file: tensors.File,
    config: ConfigDict | None,
    out: Any,
    origin: str,
    fresh: Sequence[str],
    resize: bool,
    channels: str,
    make_state: Callable[[Any, Any], Any] | None,
    seed: int,
) -> dict[str, Any]:
    """Make a workdir of parameters under their own names (`own`)."""
    kept = own.config_of(file)
    chosen = config if config is not None else kept
    if chosen is None:
        raise MismatchError("the file has a network without the method that it belongs to: give --config")
    one, changed = subject(chosen), dict[str, str]()
    _check_rows(one)
    if resize:
        file, changed = _resized_own(file, one if kept is None else subject(kept), one, channels)
    params, account = own.params_of(file, fresh_params(one, seed if fresh else None), fresh)
    with replaced(out) as new:
        _write(new, one.config, (make_state or _alone)(params, None), origin)
    report = _report(out, params, family="vmae_jax", given=config is not None, dropped=account.dropped)
    return report | {
        "kind": "params",
        "config": "as given" if config is not None else "kept in the file",
        "used": len(account.used),
        "fresh": list(account.fresh),
        "changed": changed,
        "not_checked": "outputs: there is no other program to compare with",
    }


def _report(out: Any, params: Any, *, family: str, given: bool, dropped: dict[str, str]) -> dict[str, Any]:
    """Return the report of an import whose names and shapes were checked, and no outputs.

    Args:
      out: the workdir.
      params: all parameters.
      family: of the layout.
      given: whether a config was given.
      dropped: what was left out of the file, with the reason.
    """
    return {
        "out": str(out),
        "family": family,
        "kind": "pretraining",
        "config": "as given" if given else "made from the weights",
        "parameters": int(sum(array.size for array in leaves(params).values())),
        "fresh": [],
        "dropped": dropped,
        "changed": {},
        "notes": [],
        "compared_on": [],
        "checked_by": "names and shapes",
        "largest_difference": None,
        "differences": {},
    }


def _alone(params: Any, average: Any) -> dict[str, Any]:
    """The state of weights without a training."""
    return {"params": params} | ({} if average is None else {"extra": {"ema": average}})


def _check_rows(one: Subject) -> None:
    """Check that a row of the network's own streams is of a size that this machine can hold: a file declares it."""
    size = sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in one.spec.values())
    if not 0 < size <= _ROW_BYTES:
        raise MismatchError(f"a row of the network in the file has {size:,} bytes; at most {_ROW_BYTES:,} are taken")


def _resized_own(file: tensors.File, old: Subject, new: Subject, channels: str) -> tuple[tensors.File, dict[str, str]]:
    """Return the file resampled for another model, and the changes."""
    for one in (old, new):
        published(one, "--resize resamples cubes and positions of published models")
    tree, changed = resized(unflatten_dict(file.state, sep="/"), old.model, new.model, channels=channels)
    return file._replace(state=leaves(tree)), changed


def _same_function(one: Subject, found: names.Weights) -> None:
    """Raise an error for differences that only the file's own config shows: other heads, another activation."""
    if found.about.get("hidden_act", "gelu") != "gelu":
        raise MismatchError(
            f"the weights are of a model with hidden_act {shown(found.about['hidden_act'])}, not 'gelu'"
        )
    for ours, theirs in (("heads", "num_attention_heads"), ("decoder_heads", "decoder_num_attention_heads")):
        have, want = found.about.get(theirs), getattr(one.facts, ours)
        if have not in (None, want) and (ours == "heads" or found.kind == "pretraining"):
            raise MismatchError(f"the weights are of another model than the config's: {ours} {have}, not {want}")


def _notes(one: Subject, found: names.Weights) -> list[str]:
    """Return the differences of our model from the one in the weights' own config."""
    notes = []
    if found.about.get("layer_norm_eps", 1e-6) != 1e-6:
        eps = found.about["layer_norm_eps"]
        notes.append(f"their config has layer_norm_eps {eps}; norms here have 1e-6, as the official code has")
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        values = found.about.get(theirs)
        if values is not None and list(values) != list(getattr(one.model, ours)):
            notes.append(f"their {theirs} is {values}, the config's model has {list(getattr(one.model, ours))}")
    return notes


def _verify(one: Subject, params: Any, found: names.Weights, account: Account, batch: Any) -> dict[str, Any]:
    """Compare outputs with those of the original weights in PyTorch, or return why that is not possible."""
    result: dict[str, Any] = {"checked_by": "", "largest_difference": None, "differences": {}}
    theirs = found.family in ("mae", "mae-st")
    if (theirs and set(account.dropped.values()) - {names.K_BIAS, COMPUTED}) or account.changed or account.fresh:
        why = "the model is not the one the weights are of, so there are no outputs to compare"
        return result | {"checked_by": "shapes", "not_checked": why}
    state = {name: np.asarray(found.state[name], np.float32) for name in account.used if name in found.state}
    # An image model's patch embedding has no axis of time.
    state = {name: array[:, :, None] if array.ndim == 4 else array for name, array in state.items()}
    back = to_official(params, one.facts)
    odd = [name for name in state if not np.array_equal(back[name], state[name])]
    if odd:
        raise MismatchError(f"verification failed: {odd[0]} is not the same after the conversion")
    if not verify.has_torch() or len(state) != len(back):
        why = "PyTorch is not installed here" if not verify.has_torch() else "a part of the weights was used"
        return result | {"checked_by": "round trip", "largest_difference": 0.0, "not_checked": f"outputs: {why}"}
    import torch

    ours, hidden = outputs(one, params, batch)
    pixels = np.ascontiguousarray(normalized(one.model, batch["video"]).transpose(0, 2, 1, 3, 4))
    theirs = {name: torch.from_numpy(array) for name, array in state.items()}
    differences = verify.differences(ours, torch_network.outputs(theirs, pixels, facts=one.facts, hidden=hidden))
    return {
        "checked_by": f"PyTorch {importlib.metadata.version('torch')}",
        "largest_difference": verify.gate(differences, "float32"),
        "differences": differences,
        "not_checked": "",
    }


def _write(workdir: pathlib.Path, config: ConfigDict, state: Any, origin: str) -> None:
    workdir.mkdir()
    write_config(Workdir(workdir), config)
    checkpoints = Checkpoints(workdir / "checkpoints", asynchronous=False)
    try:
        checkpoints.save(0, state, {"imported_from": pathlib.Path(origin).name})
    finally:
        checkpoints.close()
