"""A trained network from a workdir or a checkpoint, without its training state."""

import dataclasses
from typing import Any

import jax

from vmae_jax.commands.experiment import Experiment, experiment, read_config
from vmae_jax.io import layout
from vmae_jax.io.checkpoint import locate, read_newest, read_tree
from vmae_jax.io.paths import Workdir
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding
from vmae_jax.types import Extra, Params

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

    def carried(self) -> tuple[Extra, Params]:
        """What the method carried from step to step, and its frozen networks, as they were saved."""
        method = self.made.method
        extra = sharding.abstract(lambda key, batch: method.init(key, batch)[1], self.made.batch_spec)
        frozen = sharding.abstract(method.frozen, self.made.batch_spec) if method.frozen is not None else {}
        return self._read("extra/method", extra), self._read("frozen", frozen)

    def _read(self, select: str, abstract: Any) -> Any:
        """The saved arrays of a part of the state, in the containers of `abstract`."""
        names = layout.flat(sharding.unbox(abstract))
        if not names:
            return sharding.unbox(abstract)
        saved = read_tree(self.workdir.checkpoints / str(self.step), select=select)
        found = layout.flat(saved) if isinstance(saved, dict) else {"": saved}
        return jax.tree.unflatten(jax.tree.structure(sharding.unbox(abstract)), [found[name] for name in names])


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
