"""Reads PyTorch's `.pth` files without PyTorch, and without running anything in them.

A `.pth` is a zip of raw storages and a pickle that says how tensors lie in them. A pickle can
call any function; here it can only name the dozen things that tensors are made of. What else a
training script leaves in a checkpoint (its arguments) is read as inert values.
"""

import collections
import io
import pickle
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

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
# Things that official checkpoints carry beside the weights. They become `Inert`: no code of
# theirs runs, and nothing here looks at them.
INERT = {("argparse", "Namespace"), ("pathlib", "PosixPath"), ("torch", "device")}


class UnsafeFileError(ValueError):
    """A `.pth` that is damaged, or that names something weights have no need of."""


class Inert:
    """Stands for a value that is not a tensor and is of no interest."""

    def __init__(self, *args: Any, **kwargs: Any):
        del args, kwargs

    def __setstate__(self, state: Any) -> None:
        del state


def read_pth(path: Any) -> Any:
    """The contents of a `.pth`, with every tensor as a numpy array.

    Args:
      path: a file in the zip format of PyTorch 1.6 and later.

    Raises:
      UnsafeFileError: no such file, another format, a truncated one, or a pickle that would call
        something; in every case nothing of it was run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise UnsafeFileError(f"{path}: there is no such file") from None
    except zipfile.BadZipFile:
        raise UnsafeFileError(f"{path}: not a PyTorch file of the zip format (1.6 or later), or truncated") from None
    except (pickle.UnpicklingError, KeyError, ValueError, TypeError, AttributeError, EOFError, IndexError) as error:
        raise UnsafeFileError(f"{path}: damaged ({type(error).__name__}: {error})") from None


def _read(archive: zipfile.ZipFile) -> Any:
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise UnsafeFileError("no data.pkl in it: not a PyTorch file")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        raise UnsafeFileError("written on a big-endian machine, which is not supported")

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return _allowed(module, name)

        def persistent_load(self, pid: Any) -> np.ndarray:
            kind, dtype, key, _, count = pid
            if kind != "storage" or not str(key).isalnum():
                raise UnsafeFileError(f"an unknown kind of storage {kind!r}")
            storage = np.frombuffer(archive.read(f"{root}data/{key}"), dtype)
            if storage.size < count:
                raise UnsafeFileError(f"storage {key} is shorter than it says")
            return storage

    return Reader(io.BytesIO(archive.read(pickles[0]))).load()


def _allowed(module: str, name: str) -> Any:
    if (module, name) == ("collections", "OrderedDict"):
        return collections.OrderedDict
    if module == "torch" and name in STORAGES:
        return np.dtype(STORAGES[name])
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
        return _tensor
    if (module, name) == ("torch._utils", "_rebuild_parameter"):
        return lambda data, *_: data
    if (module, name) == ("torch", "Size"):
        return tuple
    if (module, name) in INERT:
        return Inert
    raise UnsafeFileError(f"refused: it asks for {module}.{name}, which weights have no need of; nothing was run")


def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """The tensor of `size` and `stride` (in elements) in a storage, copied out of it."""
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else offset
    if min((offset, *size, *stride), default=0) < 0 or (all(size) and last >= storage.size):
        raise UnsafeFileError("a tensor reaches outside its storage")
    strides = tuple(s * storage.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False).copy()
