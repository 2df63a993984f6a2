"""The exit code and the message of an error."""

import errno

from vmae_jax.names import message

__all__ = ["describe", "exit_status", "expected"]

USER, RESUME, FAULT = 2, 75, 1
# Storage that is full, over quota, limited in file size, failing or read-only: stopping loses no work.
STORAGE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE})


def exit_status(error: Exception) -> int:
    """Return 2 for a usage or configuration error, 75 if the same command resumes, else 1."""
    from vmae_jax.data.video import MachineFault
    from vmae_jax.io.checkpoint import SaveError
    from vmae_jax.runtime.distributed import lost_peer
    from vmae_jax.spec import ConfigError

    if isinstance(error, ConfigError):
        return USER
    resumes = isinstance(error, SaveError | MachineFault) or of_storage(error) or lost_peer(error)
    return RESUME if resumes else FAULT


def expected(error: Exception) -> bool:
    """Whether the message of an error is complete, so that no traceback is printed."""
    from vmae_jax.data.faults import TooManyBadVideos
    from vmae_jax.data.video import MachineFault
    from vmae_jax.data.workers import NoWorkerError
    from vmae_jax.io.checkpoint import DamagedCheckpointError, SaveError
    from vmae_jax.runtime.distributed import lost_peer
    from vmae_jax.spec import ConfigError

    known = ConfigError | SaveError | DamagedCheckpointError | TooManyBadVideos | ArithmeticError
    known |= MachineFault | NoWorkerError
    return lost_peer(error) or of_storage(error) or isinstance(error, known)


def describe(error: Exception) -> str:
    """Return the error as one line."""
    text = message(error) or type(error).__name__
    if of_storage(error):
        return f"{text}: free space or make it writable, then run the same command again"
    return text


def of_storage(error: Exception) -> bool:
    """Whether an error comes from the storage and not from the program."""
    return isinstance(error, OSError) and error.errno in STORAGE
