"""Which exit status an error deserves."""

__all__ = ["exit_status", "expected"]

USER, RESUME, FAULT = 2, 75, 1


def exit_status(error: Exception) -> int:
    """2 for the user's mistake, 75 where the same command resumes, 1 where a person should look."""
    from vmae_jax.data.video import MachineFault
    from vmae_jax.io.checkpoint import SaveError
    from vmae_jax.runtime.distributed import lost_peer
    from vmae_jax.spec import ConfigError

    if isinstance(error, ConfigError):
        return USER
    return RESUME if isinstance(error, SaveError | MachineFault) or lost_peer(error) else FAULT


def expected(error: Exception) -> bool:
    """True for faults whose message says all there is to say, so that no traceback is shown."""
    from vmae_jax.data.faults import TooManyBadVideos
    from vmae_jax.data.video import MachineFault
    from vmae_jax.io.checkpoint import DamagedCheckpointError, SaveError
    from vmae_jax.runtime.distributed import lost_peer
    from vmae_jax.spec import ConfigError

    return lost_peer(error) or isinstance(
        error, ConfigError | SaveError | DamagedCheckpointError | MachineFault | TooManyBadVideos | ArithmeticError
    )
