"""Files and folders that are there whole or not at all; what was there before stays until then."""

import contextlib
import errno
import os
import pathlib
import shutil
import stat
import uuid
from collections.abc import Iterator
from typing import Any

__all__ = ["NotWrittenError", "replaced"]


class NotWrittenError(ValueError):
    """An output that could not be written; what was there before is untouched."""


@contextlib.contextmanager
def replaced(out: Any) -> Iterator[pathlib.Path]:
    """Gives a path beside `out` to write a file or a folder at; it takes the place of `out` at the end.

    Whatever goes wrong in between, the new one is removed and the old one stays.

    Raises:
      NotWrittenError: a bucket, a folder that cannot be written, or a full disk.
    """
    if "://" in str(out):
        raise NotWrittenError(f"{out}: write to a local path, and copy it to the bucket afterwards")
    out = pathlib.Path(out).absolute()
    token = uuid.uuid4().hex[:8]
    new, old = (out.parent / f".{out.name}.{word}-{token}{out.suffix}" for word in ("new", "old"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        mode = _normal_mode(new)
        yield new
        _sync(new, mode)
        if out.exists():
            os.rename(out, old)
        try:
            os.rename(new, out)
        except OSError:
            if old.exists():
                os.rename(old, out)
            raise
    except OSError as error:
        kept = "; what was there before is as it was" if out.exists() else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        reason = "the disk is full" if full else error.strerror or str(error)
        raise NotWrittenError(f"{out}: not written: {reason}{kept}") from None
    except Exception as error:
        if "No space left" in str(error) or "os error 28" in str(error):  # in a class of the library that wrote
            kept = "; what was there before is as it was" if out.exists() else ""
            raise NotWrittenError(f"{out}: not written: the disk is full{kept}") from None
        raise
    finally:
        for path in (new, old):
            _remove(path)


def _normal_mode(path: pathlib.Path) -> int:
    """The permissions that the umask (or an access list of the folder) gives a new file at `path`."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)
        path.unlink()


def _sync(path: pathlib.Path, mode: int) -> None:
    """Flush every file, so that a full disk is an error now, and give it the permissions of a new one.

    Libraries write to temporary files that only their owner may read, and rename them.
    """
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
                os.fchmod(handle.fileno(), mode)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
