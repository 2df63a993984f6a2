"""Files of weights as flat dicts of arrays, whatever their kind; nothing in them is ever run."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from vmae_jax.interop import torch_file

__all__ = ["File", "UnreadableFileError", "read_file", "read_json", "write_safetensors"]

# What training scripts call the weights among the rest, in the order they are looked for.
CONTAINERS = ("model", "module", "state_dict", "model_state", "model_state_dict")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")


class UnreadableFileError(ValueError):
    """A file of weights that is absent, damaged, unsafe or of another kind."""


class File(NamedTuple):
    """What a file of weights holds.

    Attributes:
      state: the tensors by the names they have in the file.
      about: what the file, or the config.json beside it, says of the model.
      other: entries that are no weights (optimizer, epoch, …).
    """

    state: dict[str, np.ndarray]
    about: dict[str, Any]
    other: tuple[str, ...] = ()


def read_file(path: Any, *, key: str | None = None) -> File:
    """Reads a `.safetensors`, a `.pth`/`.pt`/`.bin`, an index of shards, or a folder with one.

    Args:
      path: the file or folder.
      key: the entry of a `.pth` to take, such as "model_ema"; None finds it.

    Raises:
      UnreadableFileError: one line that says what is wrong with which file.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _read_folder(path, key)
    if not path.exists():
        raise UnreadableFileError(f"{path}: there is no such file or folder")
    if path.name.endswith(".index.json"):
        return File(_read_shards(path), {})
    if path.suffix == ".safetensors":
        return File(*_read_safetensors(path))
    try:
        contents = torch_file.read_pth(path)
    except torch_file.UnsafeFileError as error:
        raise UnreadableFileError(str(error)) from None
    return _unwrap(path, contents, key)


def write_safetensors(path: Any, state: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Writes a flat dict of arrays; `metadata` is kept as JSON texts in the header.

    "format": "pt" is what PyTorch programs look for.
    """
    notes = {"format": "pt", **{key: json.dumps(value) for key, value in metadata.items()}}
    arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
    safetensors.numpy.save_file(arrays, str(path), metadata=notes)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      UnreadableFileError: it is not one.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableFileError(f"{path}: not a JSON file ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise UnreadableFileError(f"{path}: a JSON object was expected")
    return data


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
    """The tensors of every file that an index names, each from the file it says."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UnreadableFileError(f"{index}: no weight_map in it")
    state: dict[str, np.ndarray] = {}
    for name in sorted(set(map(str, places.values()))):
        if name in ("", ".", "..") or pathlib.PurePath(name).name != name or "\\" in name:
            raise UnreadableFileError(f"{index}: refused: it names {name!r}, which is not a plain file of its folder")
        if not (index.parent / name).resolve().is_relative_to(index.parent.resolve()):
            raise UnreadableFileError(f"{index}: refused: {name!r} is a link out of its folder")
        for tensor, array in read_file(index.parent / name).state.items():
            if places.get(tensor) != name:
                raise UnreadableFileError(f"{index}: {tensor} lies in {name}, where the index does not put it")
            state[tensor] = array
    absent = sorted(set(places) - set(state))
    if absent:
        raise UnreadableFileError(f"{index}: {absent[0]} is in none of its files ({len(absent)} are absent)")
    return state


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with safetensors.safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise UnreadableFileError(f"{path}: damaged or truncated ({' '.join(str(error).split())})") from None
    about = {}
    for key, text in metadata.items():
        try:
            about[key] = json.loads(text)
        except ValueError:  # other programs keep plain text there
            about[key] = text
    return state, about


def _unwrap(path: pathlib.Path, contents: Any, key: str | None) -> File:
    """The state dict in what `torch.save` was given."""
    if not isinstance(contents, Mapping):
        raise UnreadableFileError(f"{path}: a dict of tensors was expected in it")
    about = contents.get("vmae_jax")
    about = dict(about) if isinstance(about, Mapping) else {}
    if key is not None:
        if not isinstance(contents.get(key), Mapping):
            raise UnreadableFileError(f"{path}: no weights under {key!r}; it has {_some(contents)}")
        state = contents[key]
    else:
        found = [name for name in CONTAINERS if isinstance(contents.get(name), Mapping)]
        state = contents[found[0]] if found else contents
    arrays = {str(name): value for name, value in state.items() if isinstance(value, np.ndarray)}
    if not arrays:
        raise UnreadableFileError(f"{path}: no tensors in it; it has {_some(contents)}")
    other = [name for name in contents if contents[name] is not state and name != "vmae_jax"]
    return File(arrays, about, tuple(map(str, other)) if state is not contents else ())


def _some(names: Mapping[str, Any]) -> str:
    listed = [str(name) for name in names][:6]
    return ", ".join(listed) + (", …" if len(names) > 6 else "") or "nothing"
