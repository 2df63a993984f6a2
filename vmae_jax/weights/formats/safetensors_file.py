"""Reads and writes `.safetensors` files: a length, a header of JSON, and the arrays one after the other.

Every number of the header is checked against the file before anything is allocated, and the arrays
have to cover the data exactly: no gap, no overlap, nothing outside.
"""

import json
import math
import pathlib
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from vmae_jax.weights.formats.checks import UnreadableFileError, check_fits, check_name, parse_json, shown, size_of

__all__ = ["read_safetensors", "write_safetensors"]

MAX_HEADER = 16 << 20
MAX_EMPTY = 1 << 16  # for the axes of an array without elements
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file by name, and the texts of its metadata.

    Raises:
      UnreadableFileError: if the file is absent, truncated, damaged, or has a dtype without an equivalent here.
    """
    size = size_of(path)
    try:
        with open(path, "rb") as file:
            header, start = _header(file, size)
            metadata = _metadata(header.pop("__metadata__", {}))
            places = {name: _place(name, entry) for name, entry in header.items()}
            _check_cover(places, size - start)
            state = {name: _array(file, start, *place) for name, place in places.items()}
    except UnreadableFileError as error:
        raise UnreadableFileError(f"{path}: {error}") from None
    except OSError as error:
        raise UnreadableFileError(f"{path}: cannot be read ({error.strerror})") from None
    return state, metadata


def write_safetensors(path: Any, state: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Write a flat dict of arrays; `metadata` is kept as JSON texts in the header.

    "format": "pt" is what PyTorch programs look for.

    Raises:
      ValueError: if an array has a dtype that the format does not have.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **{k: json.dumps(v) for k, v in metadata.items()}}}
    # Wider items first, as the reference implementation orders them: then all arrays are aligned.
    ordered = sorted(state.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    end = 0
    for name, array in ordered:
        if array.dtype not in NAMES:
            raise ValueError(f"{name}: .safetensors files have no dtype {array.dtype}")
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in ordered:
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header, and where the data begin."""
    if size < 8:
        raise UnreadableFileError("damaged or truncated: no .safetensors header")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size - 8, MAX_HEADER):
        raise UnreadableFileError(f"damaged or truncated: a header of {length} bytes in a file of {size}")
    try:
        return parse_json(file.read(length)), 8 + length
    except UnreadableFileError as error:
        raise UnreadableFileError(f"damaged or truncated: its header: {error}") from None


def _metadata(entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(text, str) for text in entry.values()):
        raise UnreadableFileError("damaged: __metadata__ is not a dict of texts")
    return entry


def _place(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """The dtype, shape, begin and end of a tensor, which must agree with each other."""
    check_name(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise UnreadableFileError(f"damaged: {name} needs a dtype, a shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UnreadableFileError(f"{name} has the dtype {shown(dtype)}; {', '.join(DTYPES)} are read")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise UnreadableFileError(f"damaged: {name} has no list of a shape, or no two data_offsets")
    if any(type(number) is not int or number < 0 for number in offsets):
        raise UnreadableFileError(f"damaged: the data_offsets of {name} are not whole numbers from 0")
    begin, end = offsets
    check_fits(shape, DTYPES[dtype].itemsize, max(end - begin, 0) if all(shape) else MAX_EMPTY)
    if math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise UnreadableFileError(f"damaged: {name} has {end - begin} bytes, which is not its shape and dtype")
    return DTYPES[dtype], tuple(shape), begin, end


def _check_cover(places: Mapping[str, tuple[Any, Any, int, int]], available: int) -> None:
    end = 0
    for name, (_, _, begin, after) in sorted(places.items(), key=lambda item: item[1][2:]):
        if begin != end:
            raise UnreadableFileError(f"damaged: {name} begins at byte {begin} of the data, where {end} was expected")
        end = after
    if end != available:
        raise UnreadableFileError(f"damaged or truncated: {available} bytes of data, and the header describes {end}")


def _array(file: BinaryIO, start: int, dtype: np.dtype, shape: tuple[int, ...], begin: int, end: int) -> np.ndarray:
    file.seek(start + begin)
    data = bytearray(end - begin)
    if file.readinto(data) != len(data):  # pyright: ignore[reportAttributeAccessIssue]
        raise UnreadableFileError("truncated while it was read")
    array = np.frombuffer(data, np.uint8 if dtype == np.bool_ else dtype).reshape(shape)
    return array != 0 if dtype == np.bool_ else array
