"""Reads PyTorch's `.pth` files without PyTorch, and without running anything in them.

A `.pth` is a zip of raw storages and a pickle that describes how tensors are cut out of them. The
pickle is interpreted by `pickles`, which has the dozen names that tensors are made of and makes
plain values of them. What else a training script leaves in a checkpoint (its arguments) is inert.
Every size is compared with the file's own before anything is allocated.
"""

import collections
import pathlib
import struct
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from vmae_jax.weights.formats import pickles
from vmae_jax.weights.formats.checks import UnreadableFileError, check_fits, shown, size_of
from vmae_jax.weights.formats.pickles import Inert, Maker, RefusedError

__all__ = ["UnsafeFileError", "read_pth"]

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# Things that official checkpoints carry beside the weights. They become `Inert`.
INERT = (("argparse", "Namespace"), ("pathlib", "PosixPath"), ("torch", "device"))
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of PyTorch before 1.6 begin
MAX_EXPANSION = 16  # tensors may share storages: at most this many times the file's size in all
ZIP_ERRORS = (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, OverflowError, struct.error)


class UnsafeFileError(UnreadableFileError):
    """A `.pth` that is damaged, too large for its size, or that names something weights do not need."""


class Kind(NamedTuple):
    """A class of storages, `torch.FloatStorage` and others."""

    dtype: np.dtype


class Storage(NamedTuple):
    """An entry of the file that tensors are cut out of; it is read with the first of them."""

    key: str
    dtype: np.dtype
    count: int


def read_pth(path: Any) -> Any:
    """The contents of a `.pth`, with every tensor as a numpy array.

    Args:
      path: a file in the zip format of PyTorch 1.6 and later.

    Raises:
      UnsafeFileError: if there is no such file, it has another format, it is damaged, it declares
        more than it has, or its pickle does more than hold data. Nothing in it was run.
    """
    path = pathlib.Path(path)
    try:
        size = size_of(path)
        with open(path, "rb") as file:
            _check_format(file.read(len(LEGACY)))
            with _open_zip(file) as archive:
                return _Contents(archive, size).read()
    except (RefusedError, UnreadableFileError) as error:
        message = str(error)
        raise UnsafeFileError(message if message.startswith(f"{path}:") else f"{path}: {message}") from None
    except OSError as error:
        raise UnsafeFileError(f"{path}: cannot be read ({error.strerror})") from None


def _check_format(start: bytes) -> None:
    if start.startswith(LEGACY):
        raise RefusedError(
            "written in the format of PyTorch before 1.6: open it with torch.load(…, weights_only=True) and torch.save"
        )


def _open_zip(file: Any) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except ZIP_ERRORS:
        raise RefusedError("not a PyTorch file of the zip format (1.6 or later), or truncated") from None


class _Contents:
    """One open file: its entries, the storages read so far, and how large its tensors are together."""

    def __init__(self, archive: zipfile.ZipFile, size: int):
        self.archive, self.size = archive, size
        self.entries = _checked_entries(archive, size)
        self.storages: dict[str, bytes] = {}
        self.tensor_bytes = 0
        pickled = [name for name in self.entries if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickled) != 1:
            raise RefusedError("not a PyTorch file: exactly one data.pkl was expected in it")
        self.root = pickled[0].removesuffix("data.pkl")
        self.names: dict[tuple[str, str], Any] = {("torch", name): Kind(np.dtype(t)) for name, t in STORAGES.items()}
        self.names |= dict.fromkeys(INERT, Maker(lambda arguments: Inert()))
        self.names["collections", "OrderedDict"] = Maker(_ordered)
        self.names["torch", "Size"] = Maker(_size)
        self.names["torch._utils", "_rebuild_tensor_v2"] = Maker(self.tensor)
        self.names["torch._utils", "_rebuild_parameter"] = Maker(_parameter)

    def read(self) -> Any:
        order = f"{self.root}byteorder"
        if order in self.entries and self.entry(order) != b"little":
            raise RefusedError("written on a big-endian machine, which is not supported")
        return pickles.load(self.entry(f"{self.root}data.pkl"), self.names, self.storage)

    def entry(self, name: str) -> bytes:
        try:
            return self.archive.read(self.entries[name])
        except ZIP_ERRORS as error:
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            raise RefusedError(f"damaged ({reason})") from None

    def storage(self, pid: Any) -> Storage:
        """What a persistent id stands for: ("storage", kind, key, device, number of elements)."""
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[1], Kind):
            raise RefusedError("damaged: a storage without a kind, a key and a size")
        key, count, dtype = pid[2], pid[4], pid[1].dtype
        entry = self.entries.get(f"{self.root}data/{key}") if type(key) is str else None
        if entry is None:
            raise RefusedError(f"damaged: there is no storage {shown(key)} in it")
        available = entry.file_size
        if type(count) is not int or not 0 <= count * dtype.itemsize <= available:
            declared = f"{shown(count)} elements of {dtype.itemsize} bytes"
            raise RefusedError(f"damaged: storage {shown(key)} has {available} bytes, not {declared}")
        return Storage(key, dtype, count)

    def tensor(self, arguments: tuple[Any, ...]) -> np.ndarray:
        """The tensor (storage, offset, size, stride, …), in elements, copied out of its storage."""
        if len(arguments) < 4 or not isinstance(arguments[0], Storage):
            raise RefusedError("damaged: a tensor without a storage, an offset, a size and a stride")
        storage, offset, size, stride = arguments[:4]
        if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride):
            raise RefusedError("damaged: a tensor without a size and a stride for each axis")
        if any(type(number) is not int or number < 0 for number in (offset, *stride)):
            raise RefusedError("damaged: a tensor's offset or stride is not a whole number from 0")
        check_fits(size, storage.dtype.itemsize, MAX_EXPANSION * self.size)
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else offset - 1
        if last >= storage.count:
            raise RefusedError("damaged: a tensor reaches outside its storage")
        array = np.zeros(size, storage.dtype)
        self.tensor_bytes += array.nbytes
        if self.tensor_bytes > MAX_EXPANSION * self.size:
            raise RefusedError(f"its tensors are together more than {MAX_EXPANSION} times as large as the file")
        if array.size:
            strides = tuple(s * storage.dtype.itemsize * (n > 1) for n, s in zip(size, stride, strict=True))
            array[...] = np.lib.stride_tricks.as_strided(self.elements(storage)[offset:], size, strides)
        return array

    def elements(self, storage: Storage) -> np.ndarray:
        if storage.key not in self.storages:
            self.storages[storage.key] = self.entry(f"{self.root}data/{storage.key}")
        dtype = np.dtype(np.uint8) if storage.dtype == np.bool_ else storage.dtype
        array = np.frombuffer(self.storages[storage.key], dtype, count=storage.count)
        return array != 0 if storage.dtype == np.bool_ else array


def _checked_entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, which must be stored as they are and fit into the file all together."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = shown(info.filename)
        if info.filename in entries:
            raise RefusedError(f"refused: it has two entries {name}")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise RefusedError(f"refused: its entry {name} is compressed or encrypted, which PyTorch's files are not")
        entries[info.filename] = info
    if sum(info.file_size for info in entries.values()) > size:
        raise RefusedError(f"refused: its entries are together larger than the file, which has {size} bytes")
    return entries


def _ordered(arguments: tuple[Any, ...]) -> collections.OrderedDict[Any, Any]:
    """An OrderedDict as Python 3 writes it (empty, filled later) or Python 2 (of a list of pairs)."""
    result: collections.OrderedDict[Any, Any] = collections.OrderedDict()
    for pair in arguments[0] if len(arguments) == 1 and type(arguments[0]) is list else arguments:
        if type(pair) not in (list, tuple) or len(pair) != 2 or not isinstance(pair[0], str | int):
            raise RefusedError("damaged: an OrderedDict of what are not pairs of a name and a value")
        result[pair[0]] = pair[1]
    return result


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) != 1 or type(arguments[0]) not in (list, tuple):
        raise RefusedError("damaged: a torch.Size of what is not a list")
    return tuple(arguments[0])


def _parameter(arguments: tuple[Any, ...]) -> np.ndarray:
    if not arguments or not isinstance(arguments[0], np.ndarray):
        raise RefusedError("damaged: a parameter without a tensor")
    return arguments[0]
