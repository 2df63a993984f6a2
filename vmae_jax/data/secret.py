"""The secret that a training shares with the workers which decode for it (see `service`).

It names the function that a worker registers, and signs what the trainer sends: the loader's config, the seed and
the number of videos. A worker carries out nothing without a signature. The secret itself is never sent.
"""

import hashlib
import hmac
import json
import os
import pathlib
import secrets
import stat

from vmae_jax.spec import ConfigError

__all__ = ["FILE", "VALUE", "function_name", "read_secret", "secret_file", "signature"]

VALUE = "VMAE_DATA_SECRET"  # the environment variable that holds the secret itself
FILE = "VMAE_DATA_SECRET_FILE"  # the one that names the file which holds it
LEAST = 32  # characters


def secret_file() -> pathlib.Path:
    """Return the file that holds the secret: $VMAE_DATA_SECRET_FILE, or one in the user's config folder."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return pathlib.Path(os.environ.get(FILE) or os.path.join(base, "vmae_jax", "data_service_secret"))


def read_secret(*, make: bool = False) -> bytes:
    """Return the secret, from $VMAE_DATA_SECRET or the file.

    Args:
      make: write a new one, readable by this user only, if there is no file.

    Raises:
      ConfigError: if there is none, it is shorter than 32 characters, or other users can read its file.
    """
    value = os.environ.get(VALUE)
    if value is None:
        path = secret_file()
        if make and not path.exists():
            _make(path)
        value = _read(path)
    if len(value) < LEAST:
        raise ConfigError(f"data service: the secret has {len(value)} characters; at least {LEAST} are needed")
    return value.encode(errors="surrogateescape")


def function_name(secret: bytes) -> str:
    """Return the name under which a worker registers its function."""
    return "vmae_" + hmac.new(secret, b"function", hashlib.sha256).hexdigest()


def signature(secret: bytes, recipe: str, seed: int, videos: int) -> str:
    """Return the signature of a request's constant part."""
    return hmac.new(secret, json.dumps([recipe, seed, videos]).encode(), hashlib.sha256).hexdigest()


def _read(path: pathlib.Path) -> str:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(4096)
    except OSError as error:
        raise ConfigError(
            f"data service: no secret in {path} ({error.strerror}): vmae data serve writes one; copy it to every "
            f"machine, name it in ${FILE}, or put the secret in ${VALUE}"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"data service: {path} can be read by other users: chmod 600 {path}")
    return content.decode(errors="surrogateescape").strip()


def _make(path: pathlib.Path) -> None:
    """Write a new secret; where several processes do so at once, the first one's stands."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        try:
            os.link(aside, path)
        except FileExistsError:
            return
        finally:
            aside.unlink()
    except OSError as error:
        raise ConfigError(f"data service: {path} cannot be written ({error.strerror}): set ${VALUE}") from error
