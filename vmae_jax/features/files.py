"""Arrays of videos as files, one or two per video: OUT/NAME.npz, .npy or .h5."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from vmae_jax.features.shards import digest
from vmae_jax.spec import ConfigError

__all__ = ["FILES", "FeatureFiles", "files_of"]

FILES = {"npz": (".npz",), "npy": (".seconds.npy", ".npy"), "hdf5": (".h5",)}  # the last one is written last


def files_of(format: str, name: str) -> list[str]:  # noqa: A002
    """Return the files of a video relative to the folder; with "array_record", the name of its record."""
    return [f"{name}{suffix}" for suffix in FILES.get(format, ("",))]


class FeatureFiles:
    """Writes the files of each video atomically.

    Args:
      folder: local or gs://.
      format: a key of `FILES`: "npz" and "hdf5" hold every array, "npy" the features and, in a second file,
        their seconds.
      write: (path, bytes) -> writes a file atomically.

    Raises:
      ConfigError: if the format is "hdf5" and h5py is not installed.
    """

    def __init__(self, folder: str, format: str, write: Any) -> None:  # noqa: A002
        self._folder, self._format, self._write = epath.Path(folder), format, write
        if format == "hdf5":
            try:
                import h5py  # noqa: F401
            except ImportError as error:
                raise ConfigError("--format=hdf5 needs h5py: pip install 'vmae-jax[hdf5]'") from error

    def unit(self, name: str) -> int:
        """Return a number that depends only on the name, by which processes share the videos."""
        return digest(name)

    def has(self, name: str) -> bool:
        """Whether the files of the video exist."""
        return (self._folder / files_of(self._format, name)[-1]).exists()

    def add(self, name: str, arrays: Mapping[str, Any]) -> list[str]:
        """Write the files of a video; return their paths."""
        contents = {"npz": _npz, "hdf5": _hdf5, "npy": _npy}[self._format](arrays)
        paths = [self._folder / file for file in files_of(self._format, name)]
        for path, content in zip(paths, contents, strict=True):
            self._write(path, content)
        return [str(path) for path in paths]

    def flush(self) -> list[str]:
        """Nothing waits."""
        return []


def _npz(arrays: Mapping[str, Any]) -> list[bytes]:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return [content.getvalue()]


def _npy(arrays: Mapping[str, Any]) -> list[bytes]:
    contents = []
    for name in ("seconds", "features"):
        content = io.BytesIO()
        np.save(content, arrays[name])
        contents.append(content.getvalue())
    return contents


def _hdf5(arrays: Mapping[str, Any]) -> list[bytes]:
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, track_times=False)  # the same arrays are the same bytes
    return [content.getvalue()]
