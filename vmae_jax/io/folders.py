"""Check of a folder that a user named."""

import errno
import os

from etils import epath

from vmae_jax.io.paths import absolute, in_bucket
from vmae_jax.spec import ConfigError

__all__ = ["check_folder"]


def check_folder(
    path: epath.PathLike, option: str = "--workdir", *, exists: bool = True, run: epath.PathLike | None = None
) -> None:
    """Check that a local path can serve as a folder; paths in a bucket pass.

    Args:
      path: as the user gave it.
      option: that gave it, or what it is where several options give it; for the message.
      exists: whether it must exist and be readable; otherwise it may be created, and must be writable.
      run: a workdir; if it has a run, a disk that became read-only has interrupted that run.

    Raises:
      ConfigError: if it is a file or below one, not permitted, or missing.
      OSError: EROFS, if the disk of a run that goes on is read-only.
    """
    if in_bucket(path):
        return
    path = absolute(path)
    given = f"{option}={path}" if option.startswith("-") else f"{option} {path}"
    try:
        found = _first_existing(os.fspath(path))
        is_folder = os.path.isdir(found)
    except OSError as error:  # a name that is too long, a loop of links
        raise ConfigError(f"{given}: {error.strerror}: name another folder") from error
    if not is_folder:
        what = "is a file" if found == os.fspath(path) else f"cannot be a folder, because {found} is a file"
        raise ConfigError(f"{given} {what}: name a folder")
    if exists and found != os.fspath(path):
        raise ConfigError(f"{given}: there is no such folder")
    if not os.access(found, os.R_OK | os.X_OK if exists else os.R_OK | os.W_OK | os.X_OK):
        if run is not None and os.path.exists(absolute(run) / "config.json") and _read_only(found):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), found)
        way = "read" if exists else "written"
        raise ConfigError(f"{given}: {found} cannot be {way} by this user: name another folder")


def _read_only(path: str) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _first_existing(path: str) -> str:
    """The path, or the nearest above it that exists.

    Raises:
      OSError: if it cannot be examined.
    """
    while True:
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            path = os.path.dirname(path)
        except PermissionError:
            return os.path.dirname(path)
        else:
            return path
