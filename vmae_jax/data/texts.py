"""Text files that other programs wrote: lists, tables, annotations, class names, captions and subtitles.

They are UTF-8 with or without a byte order mark, or UTF-16 with one. Lists and tables name files, and a file's name
may hold any bytes: there, bytes that are not UTF-8 stand as Python holds them in names (`vmae_jax.names`).
"""

import codecs
import os
import re

from vmae_jax.data.video import open_regular
from vmae_jax.errors import ConfigError

__all__ = ["bytes_of", "has_raw_bytes", "listed_text", "read_text", "text_of"]

_BYTES = 4 << 30  # of a file, which is held in memory
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_RAW = re.compile("[\ud800-\udfff]")


def text_of(data: bytes, *, names: bool = False) -> str:
    """Return the text of a file's bytes.

    Args:
      data: all of the file.
      names: whether the text names files, so that it may hold bytes that are not UTF-8.

    Raises:
      ValueError: if it is no text, or is in another encoding; one line.
    """
    if data.startswith(_UTF16):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise ValueError(f"is no UTF-16 text ({error.reason} at byte {error.start})") from None
    if b"\0" in data:
        raise ValueError("is no text: it holds zero bytes")
    data = data.removeprefix(codecs.BOM_UTF8)
    if names:
        return os.fsdecode(data)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"is no UTF-8 text (byte 0x{data[error.start]:02x} at {error.start}); "
            f"convert it, for example with: iconv -f LATIN1 -t UTF-8"
        ) from None


def has_raw_bytes(text: str) -> bool:
    """Return whether a text of `text_of` with `names` holds bytes that are not UTF-8."""
    return _RAW.search(text) is not None


def bytes_of(path: str) -> bytes:
    """Return the bytes of a file, local or remote.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is no regular file, or has more bytes than fit into memory.
    """
    if "://" in path:
        from etils import epath

        remote = epath.Path(path)
        _check_size(remote.stat().length)
        return remote.read_bytes()
    with open_regular(os.path.expanduser(path)) as file:
        _check_size(os.fstat(file.fileno()).st_size)
        return file.read()


def read_text(path: str, *, names: bool = False) -> str:
    """Return the text of a file, local or remote (see `text_of`).

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is no regular file, too large, or no text.
    """
    return text_of(bytes_of(path), names=names)


def listed_text(path: str, what: str) -> str:
    """Return the text of a file that names files, local or remote.

    Raises:
      ConfigError: if it cannot be read; it begins with `what`.
    """
    try:
        return read_text(path, names=True)
    except OSError as error:
        raise ConfigError(f"{what} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{what} {error}") from error


def _check_size(size: int) -> None:
    if size > _BYTES:
        raise ValueError(f"has more than {_BYTES >> 20} MiB")
