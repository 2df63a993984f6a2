"""The persistent compilation cache: on by default, in a folder that only the user can read.

The cache contains machine code that JAX loads and runs, so a folder that somebody else
can write to is refused: `/tmp` on a shared machine would let others run code as this user.
"""

import logging
import os
import pathlib
import stat

import jax

from vmae_jax.spec import ConfigError

__all__ = ["MIN_VARIABLE", "VARIABLE", "cache_folder", "enable_cache"]

log = logging.getLogger(__name__)
VARIABLE = "VMAE_CACHE"
_MIN_SECONDS = 0.5  # what compiles faster is not worth a file
MIN_VARIABLE = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"  # JAX's own variable for it, which wins


def cache_folder() -> pathlib.Path | None:
    """Where the cache belongs: `$VMAE_CACHE`, or `vmae_jax/xla` in the user's cache folder.

    Returns:
      None when `VMAE_CACHE=off`.

    Raises:
      ConfigError: `VMAE_CACHE` is a relative path.
    """
    value = os.environ.get(VARIABLE, "").strip()
    if value.lower() in ("off", "0", "no", "false"):
        return None
    if value:
        path = pathlib.Path(value).expanduser()
        if not path.is_absolute():
            raise ConfigError(f"{VARIABLE}={value}: give an absolute path, or `off`")
        return path
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = pathlib.Path(home) if os.path.isabs(home) else pathlib.Path.home() / ".cache"
    return base / "vmae_jax" / "xla"


def enable_cache(path: str | os.PathLike[str] | None = None) -> pathlib.Path | None:
    """Lets JAX keep its compiled programs from run to run; call it before the first compilation.

    A folder that cannot be used safely is not used, with one warning: the cache saves
    time, it is never worth stopping a run.

    Args:
      path: the folder; None for `cache_folder()`.

    Returns:
      the folder in use; None where the cache is off.
    """
    folder = pathlib.Path(path).expanduser() if path is not None else cache_folder()
    if folder is None:
        return None
    problem = secure(folder)
    if problem:
        log.warning("no compilation cache: %s (set %s to another folder, or to `off`)", problem, VARIABLE)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if MIN_VARIABLE not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return folder


def secure(folder: pathlib.Path) -> str:
    """Makes `folder` a folder of this user alone (0700).

    Returns:
      what is wrong with it in words; "" when nothing is.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = os.lstat(folder)
        if not stat.S_ISDIR(info.st_mode):
            return f"{folder} is not a folder"
        if info.st_uid != os.getuid():
            return f"{folder} belongs to another user (uid {info.st_uid})"
        if stat.S_IMODE(info.st_mode) & 0o077:
            os.chmod(folder, 0o700)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            return f"{folder} cannot be written"
    except OSError as error:
        return f"{folder}: {error.strerror or error}"
    return ""
