"""Checks of what other people's files declare: their text, their JSON and the sizes of their arrays."""

import json
import math
import os
import pathlib
import stat
from collections.abc import Sequence
from typing import Any

__all__ = ["UnreadableFileError", "check_fits", "check_name", "parse_json", "read_bytes", "shown", "size_of"]

MAX_AXES = 16
MAX_NAME = 512


class UnreadableFileError(ValueError):
    """A file of weights that is absent, damaged, unsafe or of an unknown format."""


def shown(value: Any, limit: int = 80) -> str:
    """A value of a file as printable text of bounded length, for a message of one line."""
    if isinstance(value, str):
        text = repr(value[: limit + 1])
    elif value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 64):
        text = repr(value)
    else:
        text = f"a {type(value).__name__}"
    return text if len(text) <= limit else f"{text[:limit]}…"


def check_name(name: Any) -> None:
    """Raise UnreadableFileError unless `name` is a tensor's name that messages and reports can hold."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise UnreadableFileError(f"{shown(name)} is not a name of a tensor: 1 to {MAX_NAME} printable characters")


def check_fits(shape: Sequence[int], item_bytes: int, available: int) -> None:
    """Raise UnreadableFileError unless an array of `shape` takes at most `available` bytes.

    Axes of length zero are left out, so that no axis is longer than the data could ever fill.
    """
    if len(shape) > MAX_AXES:
        raise UnreadableFileError(f"a tensor has {len(shape)} axes; at most {MAX_AXES} are supported")
    if any(type(n) is not int or n < 0 for n in shape):
        raise UnreadableFileError("a tensor's shape is not a list of whole numbers from 0")
    if math.prod(n for n in shape if n) * item_bytes > available:
        raise UnreadableFileError(f"a tensor of shape {shown_shape(shape)} is larger than its data")


def shown_shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(shown, shape[:MAX_AXES]))}]"


def size_of(path: pathlib.Path) -> int:
    """The size of a regular file in bytes.

    Raises:
      UnreadableFileError: if there is no such file, or it is a folder, a pipe or a device.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise UnreadableFileError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise UnreadableFileError(f"{path}: cannot be read ({_reason(error)})") from None
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableFileError(f"{path}: not a regular file")
    return status.st_size


def read_bytes(path: pathlib.Path, limit: int) -> bytes:
    """The contents of a file of at most `limit` bytes.

    Raises:
      UnreadableFileError: if it is larger, or cannot be read.
    """
    if size_of(path) > limit:
        raise UnreadableFileError(f"{path}: larger than {limit >> 20} MiB, the most that is read of such a file")
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise UnreadableFileError(f"{path}: cannot be read ({_reason(error)})") from None


def parse_json(data: bytes) -> dict[str, Any]:
    """The object in JSON text.

    Raises:
      UnreadableFileError: if it is another kind of value, nests too deeply, or has a key twice.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except UnreadableFileError:
        raise
    except RecursionError:
        raise UnreadableFileError("its JSON is nested too deeply") from None
    except ValueError as error:
        raise UnreadableFileError(f"not JSON ({_reason(error)})") from None
    if not isinstance(value, dict):
        raise UnreadableFileError("a JSON object was expected")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise UnreadableFileError(f"the key {shown(twice)} occurs twice in a JSON object")
    return result


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())[:120]
