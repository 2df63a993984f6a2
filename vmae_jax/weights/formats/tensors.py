"""Files of weights of any format as flat dicts of arrays; nothing in them is ever executed."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vmae_jax.weights.formats import torch_file
from vmae_jax.weights.formats.checks import UnreadableFileError, check_name, parse_json, read_bytes, shown
from vmae_jax.weights.formats.safetensors_file import read_safetensors, write_safetensors

__all__ = ["File", "UnreadableFileError", "read_file", "read_json", "write_safetensors"]

# The names of the weights in the checkpoints of training scripts, in the order of trying.
CONTAINERS = ("model", "module", "state_dict", "model_state", "model_state_dict")
NETWORKS = ("encoder", "predictor", "target_encoder", "ema_encoder")  # of V-JEPA's checkpoints
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")
PICKLED = (".bin", ".pth", ".pt")
MAX_JSON = 32 << 20


class File(NamedTuple):
    """The contents of a file of weights.

    Attributes:
      state: the tensors by the names they have in the file; in one of V-JEPA's, after the network's, "encoder/…".
      about: description of the model in the file, or in config.json next to it.
      other: entries that are not weights (optimizer, epoch, …).
    """

    state: dict[str, np.ndarray]
    about: dict[str, Any]
    other: tuple[str, ...] = ()


def read_file(path: Any, *, key: str | None = None) -> File:
    """Read a `.safetensors`, a `.pth`/`.pt`/`.bin`, an index of shards, or a folder with one.

    Args:
      path: the file or folder.
      key: the entry of a `.pth` to take, such as "model_ema"; None finds it.

    Raises:
      UnreadableFileError: if a file is absent, damaged, unsafe or of an unknown format.
    """
    path = pathlib.Path(path)
    if os.path.isdir(path):
        return _read_folder(path, key)
    if path.name.endswith(".index.json"):
        return File(_read_shards(path), {})
    return _read_single(path, key)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      UnreadableFileError: if it is absent, larger than any such file needs to be, or holds another value.
    """
    data = read_bytes(path, MAX_JSON)
    try:
        return parse_json(data)
    except UnreadableFileError as error:
        raise UnreadableFileError(f"{path}: {error}") from None


def _read_single(path: pathlib.Path, key: str | None) -> File:
    if path.suffix == ".safetensors":
        return _checked(path, File(*_read_safetensors(path)))
    return _checked(path, _unwrap(path, torch_file.read_pth(path), key))


def _checked(path: pathlib.Path, file: File) -> File:
    for name in file.state:
        try:
            check_name(name)
        except UnreadableFileError as error:
            raise UnreadableFileError(f"{path}: {error}") from None
    return file


def _read_folder(folder: pathlib.Path, key: str | None) -> File:
    about = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    if (folder / "preprocessor_config.json").exists():
        prepare = read_json(folder / "preprocessor_config.json")
        about |= {name: prepare[name] for name in ("image_mean", "image_std") if name in prepare}
    for name in SINGLES:
        if (folder / name).exists():
            file = read_file(folder / name, key=key)
            return file._replace(about=file.about | about)
    for name in INDICES:
        if (folder / name).exists():
            return File(_read_shards(folder / name), about)
    raise UnreadableFileError(f"{folder}: none of {', '.join((*SINGLES, *INDICES))} is in it")


def _read_shards(index: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of every file that an index names, each from the file that it gives."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UnreadableFileError(f"{index}: no weight_map in it")
    state: dict[str, np.ndarray] = {}
    for name in _shard_names(index, places):
        for tensor, array in _read_single(index.parent / name, None).state.items():
            if places.get(tensor) != name:
                raise UnreadableFileError(f"{index}: {tensor} is in {name}, where the index does not put it")
            state[tensor] = array
    absent = sorted(set(places) - set(state))
    if absent:
        raise UnreadableFileError(f"{index}: {_label(absent[0])} is in none of its files ({len(absent)} are absent)")
    return state


def _shard_names(index: pathlib.Path, places: Mapping[str, Any]) -> list[str]:
    """The files that an index names: weights in its own folder, which are no links out of it."""
    for name in places.values():
        plain = isinstance(name, str) and name.isprintable() and len(name.encode()) <= 255 and "\\" not in name
        plain = plain and pathlib.PurePath(name).name == name
        if not plain or pathlib.PurePath(name).suffix not in (".safetensors", *PICKLED):
            raise UnreadableFileError(
                f"{index}: refused: it names {shown(name)}, which is not a plain file of weights in its folder"
            )
    names, folder = sorted(set(places.values())), os.path.realpath(index.parent)
    for name in names:
        if not pathlib.Path(os.path.realpath(index.parent / name)).is_relative_to(folder):
            raise UnreadableFileError(f"{index}: refused: {name!r} is a link out of its folder")
    return names


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    state, metadata = read_safetensors(path)
    about = {}
    for key, text in metadata.items():
        try:
            about[key] = json.loads(text)
        except (ValueError, RecursionError):  # other programs keep plain text there
            about[key] = text
    return state, about


def _unwrap(path: pathlib.Path, contents: Any, key: str | None) -> File:
    """The state dict in what `torch.save` was given."""
    if not isinstance(contents, Mapping):
        raise UnreadableFileError(f"{path}: a dict of tensors was expected in it")
    about = contents.get("vmae_jax")
    about = dict(about) if isinstance(about, Mapping) else {}
    if key is None and all(isinstance(contents.get(name), Mapping) for name in NETWORKS[:2]):
        return _networks(contents, about)
    if key is not None:
        if not isinstance(contents.get(key), Mapping):
            raise UnreadableFileError(f"{path}: no weights under {key!r}; it has {_some(contents)}")
        state = contents[key]
    else:
        found = [name for name in CONTAINERS if isinstance(contents.get(name), Mapping)]
        state = contents[found[0]] if found else contents
    arrays = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, np.ndarray)}
    if not arrays:
        raise UnreadableFileError(f"{path}: no tensors in it; it has {_some(contents)}")
    other = [name for name in contents if contents[name] is not state and name != "vmae_jax"]
    return File(arrays, about, tuple(map(_label, other)) if state is not contents else ())


def _networks(contents: Mapping[str, Any], about: dict[str, Any]) -> File:
    """The networks of a checkpoint of V-JEPA, each name after that of its network."""
    found = {name: contents[name] for name in NETWORKS if isinstance(contents.get(name), Mapping)}
    state = {
        f"{network}/{name}": array
        for network, one in found.items()
        for name, array in one.items()
        if isinstance(name, str) and isinstance(array, np.ndarray)
    }
    return File(state, about, tuple(_label(name) for name in contents if name not in (*found, "vmae_jax")))


def _some(names: Mapping[str, Any]) -> str:
    listed = [_label(name) for name in list(names)[:6]]
    return ", ".join(listed) + (", …" if len(names) > 6 else "") or "nothing"


def _label(name: Any) -> str:
    """A key as it is, where it can be printed."""
    return shown(name).strip("'")
