"""The parameters of a run, for exports and other programs."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vmae_jax.io.checkpoint import DamagedCheckpointError, locate, read_newest
from vmae_jax.io.paths import Workdir
from vmae_jax.io.run_config import read_config
from vmae_jax.spec import ConfigError

__all__ = ["Checkpoint", "read_checkpoint"]


class Checkpoint(NamedTuple):
    """The parameters of a run at a step.

    Attributes:
      workdir: of the run.
      params: nested dicts of numpy arrays.
    """

    workdir: Workdir
    config: ConfigDict
    step: int
    params: Any


def read_checkpoint(path: Any, *, ema: bool = False) -> Checkpoint:
    """Read the parameters of a workdir's newest good step, or of WORKDIR/checkpoints/N.

    Raises:
      ConfigError: if there is no run, or it keeps no average.
    """
    folder, _ = locate(path)
    workdir = Workdir(folder.parent)
    config = read_config(workdir)
    select = "extra/ema" if ema else "params"
    try:
        step, params = read_newest(path, select=select)
    except DamagedCheckpointError as error:
        raise ConfigError(str(error)) from error
    except ConfigError as error:
        if ema and select in str(error):
            raise ConfigError(f"{workdir.path} keeps no average of its parameters (train.ema_decay)") from None
        raise
    return Checkpoint(workdir, config, step, params)
