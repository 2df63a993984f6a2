"""A trained network from a workdir or a checkpoint, without its training state."""

import dataclasses
from typing import Any

from vmae_jax.commands.experiment import Experiment, experiment, read_config
from vmae_jax.io.checkpoint import locate, read_newest
from vmae_jax.io.paths import Workdir
from vmae_jax.spec import ConfigError

__all__ = ["Trained", "restore"]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A checkpoint opened for use.

    Attributes:
      made: the experiment it comes from.
      params: on the host, as numpy arrays.
      step: of the checkpoint.
      workdir: of the run.
    """

    made: Experiment
    params: Any
    step: int
    workdir: Workdir


def restore(path: str, *, ema: bool = False, config: Any = None) -> Trained:
    """Reads parameters, verified, on whatever machine this is.

    Args:
      path: a workdir (its newest good step) or WORKDIR/checkpoints/N.
      ema: the averaged parameters.
      config: used in place of the workdir's `config.json`.

    Raises:
      ConfigError: no such checkpoint, or no average in it.
    """
    folder, _ = locate(path)
    workdir = Workdir(folder.parent)
    made = experiment(read_config(workdir) if config is None else config)
    if ema and made.train.ema_decay is None:
        raise ConfigError(f"{path} keeps no averaged parameters: it was trained without train.ema_decay")
    found, params = read_newest(path, select="extra/ema" if ema else "params")
    return Trained(made, params, found, workdir)
