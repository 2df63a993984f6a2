"""Tables and arrays of numbers from files that strangers made: CSV, and NumPy's .npz and .npy without pickles."""

import csv
import io
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from vmae_jax.data.texts import text_of
from vmae_jax.data.video import BadVideo

__all__ = ["LIMIT", "member", "open_archive", "read_arrays", "read_columns"]

LIMIT = 64 << 20  # bytes of a file, and of each array in one
_DIMENSIONS = 8  # of an array
_NPY = b"\x93NUMPY"
_DAMAGE = (  # what Python's zip reader raises for damaged archives
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, ArithmeticError, EOFError, LookupError, OSError,
    RuntimeError, ValueError,
)  # fmt: skip
_NUMBERS = "fiub"  # kinds of dtypes: floats, integers with and without sign, truth values


def read_columns(data: bytes, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return columns of a table, each float64 [rows] of finite numbers.

    Args:
      data: CSV with a first line of column names, or .npz with an array [rows] for each column.
      names: of the columns.
      optional: columns that may be missing.

    Raises:
      BadVideo: if it is no such table, lacks a column or is too large.
    """
    if data.startswith(b"PK"):
        with open_archive(data) as archive:
            there = {name.removesuffix(".npy") for name in archive.namelist()}
        found = read_arrays(data, [*names, *(name for name in optional if name in there)])
    else:
        found = _csv(data, names, optional)
    columns = {name: np.asarray(array, np.float64) for name, array in found.items()}
    if any(column.ndim != 1 or len(column) != len(columns[names[0]]) for column in columns.values()):
        raise BadVideo("has columns of different lengths")
    wrong = next((name for name, column in columns.items() if not np.isfinite(column).all()), None)
    if wrong is not None:
        raise BadVideo(f"has a value in {wrong!r} that is not finite")
    return columns


def read_arrays(data: bytes, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return arrays of numbers from .npz; one that is stored as .npy is whatever name is asked for.

    Raises:
      BadVideo: if an array is missing, damaged, too large, or of anything but numbers.
    """
    if data.startswith(_NPY):
        return {name: _array(data, name) for name in names}
    with open_archive(data) as archive:
        there = set(archive.namelist())
        lacking = next((name for name in names if f"{name}.npy" not in there), None)
        if lacking is not None:
            raise BadVideo(f"has no array {lacking!r}, only {', '.join(sorted(there))[:200] or 'nothing'}")
        return {name: _array(member(archive, f"{name}.npy", LIMIT), name) for name in names}


def open_archive(data: bytes) -> zipfile.ZipFile:
    """Open a zip archive.

    Raises:
      BadVideo: if it is none.
    """
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except _DAMAGE as error:
        raise BadVideo(f"is no zip archive ({' '.join(str(error).split())[:100]})") from error


def member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Return the bytes of a member, which may unpack to `limit` bytes.

    Raises:
      BadVideo: if there are more, or it is damaged.
    """
    try:
        with archive.open(name) as file:
            content = file.read(limit + 1)
    except _DAMAGE as error:
        raise BadVideo(f"holds {name!r}, which is damaged ({' '.join(str(error).split())[:100]})") from error
    if len(content) > limit:
        raise BadVideo(f"holds {name!r}, which has more than {limit >> 20} MiB")
    return content


def _array(content: bytes, name: str) -> np.ndarray:
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except (*_DAMAGE, TypeError, SyntaxError, tokenize.TokenError, MemoryError) as error:
        raise BadVideo(f"holds {name!r}, which is no array ({' '.join(str(error).split())[:100]})") from error
    if dtype.kind not in _NUMBERS:
        raise BadVideo(f"holds {name!r}, which is an array of {dtype} and not of numbers")
    begin = file.seek(0, io.SEEK_CUR)
    count = int(np.prod([int(side) for side in shape], dtype=object))
    if len(shape) > _DIMENSIONS or any(type(side) is not int or not 0 <= side <= LIMIT for side in shape):
        raise BadVideo(f"holds {name!r}, which has the shape {str(shape)[:100]}")
    if count * dtype.itemsize != len(content) - begin:
        raise BadVideo(f"holds {name!r}, which is cut off")
    return np.frombuffer(content, dtype, count, begin).reshape(shape, order="F" if fortran else "C")


def _csv(data: bytes, names: Sequence[str], optional: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        lines = csv.reader(io.StringIO(text_of(data, names=True), newline=""))
        header = [name.strip() for name in next(lines, [])]
        lacking = next((name for name in names if name not in header), None)
        if lacking is not None:
            raise BadVideo(f"has no column {lacking!r}, only {', '.join(header)[:200] or 'nothing'}")
        places = {name: header.index(name) for name in (*names, *optional) if name in header}
        rows = [[float(line[place]) for place in places.values()] for line in lines if line]
    except (csv.Error, ValueError, IndexError) as error:
        if isinstance(error, BadVideo):
            raise
        raise BadVideo(f"is no table of numbers ({' '.join(str(error).split())[:100]})") from error
    table = np.array(rows, np.float64).reshape(-1, len(places))
    return {name: table[:, column] for column, name in enumerate(places)}
