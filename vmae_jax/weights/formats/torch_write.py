"""Writes PyTorch's `.pth` files without PyTorch.

The format is a zip of raw storages and a pickle that describes the tensors in them. The pickle is
assembled here from a few opcodes, so that PyTorch need not be installed;
`torch.load(…, weights_only=True)` of PyTorch 1.13 and later reads the result.
"""

import pathlib
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["write_pth"]

STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
}
ROOT = "archive"


def write_pth(path: Any, contents: Mapping[str, Any]) -> None:
    """Write nested dicts of arrays, text and whole numbers as a `.pth`.

    Args:
      path: the file; it is overwritten.
      contents: such as {"model": state_dict}; arrays are float32, float16, bfloat16 or int64.

    Raises:
      ValueError: if a value is of another type.
    """
    arrays: list[np.ndarray] = []
    program = b"\x80\x02" + _value(contents, arrays) + pickle.STOP
    with zipfile.ZipFile(pathlib.Path(path), "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr(f"{ROOT}/data.pkl", program)
        archive.writestr(f"{ROOT}/byteorder", b"little")
        for number, array in enumerate(arrays):
            with archive.open(f"{ROOT}/data/{number}", "w", force_zip64=array.nbytes > 1 << 31) as file:
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        archive.writestr(f"{ROOT}/version", b"3\n")


def _value(value: Any, arrays: list[np.ndarray]) -> bytes:
    if isinstance(value, Mapping):
        items = b"".join(_value(str(key), arrays) + _value(item, arrays) for key, item in value.items())
        return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    if isinstance(value, str):
        text = value.encode()
        return pickle.BINUNICODE + struct.pack("<I", len(text)) + text
    if isinstance(value, bool):
        return pickle.NEWTRUE if value else pickle.NEWFALSE
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return pickle.BINFLOAT + struct.pack(">d", value)
    if isinstance(value, list):
        items = b"".join(_value(item, arrays) for item in value)
        return pickle.EMPTY_LIST + pickle.MARK + items + pickle.APPENDS
    if isinstance(value, np.ndarray) and value.dtype in STORAGES:
        return _tensor(value, arrays)
    raise ValueError(f"a .pth is written from arrays, text, numbers and lists, not {type(value).__name__}")


def _tensor(array: np.ndarray, arrays: list[np.ndarray]) -> bytes:
    """A call of torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, {})."""
    key = str(len(arrays))
    arrays.append(array)
    kind = _global("torch", STORAGES[array.dtype])
    storage = _tuple(_value("storage", []), kind, _value(key, []), _value("cpu", []), _integer(array.size))
    strides = [int(np.prod(array.shape[axis + 1 :], dtype=np.int64)) for axis in range(array.ndim)]
    hooks = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    arguments = _tuple(
        storage + pickle.BINPERSID,
        _integer(0),
        _tuple(*map(_integer, array.shape)),
        _tuple(*map(_integer, strides)),
        pickle.NEWFALSE,
        hooks,
    )
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _integer(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return pickle.BININT + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + bytes([len(data)]) + data
