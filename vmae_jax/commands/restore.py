"""A trained network from a workdir or a checkpoint, without its training state.

The workdir of `vmae import` without a config has only a `method`. The other sections of an experiment are filled in
here: clips of the model's frames and resolution at stride 4, as in the papers' pre-training, and no data.
"""

import dataclasses
from typing import Any, NoReturn

import jax
from ml_collections import ConfigDict

from vmae_jax.commands.experiment import Experiment, experiment
from vmae_jax.io import layout
from vmae_jax.io.checkpoint import locate, read_newest, read_tree
from vmae_jax.io.paths import Workdir
from vmae_jax.io.run_config import read_config
from vmae_jax.spec import ConfigError, build, call
from vmae_jax.train import sharding
from vmae_jax.types import Carried

__all__ = ["Trained", "config_of", "restore"]

STRIDE = 4  # frames, of the papers' pre-training


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

    def carried(self) -> Carried:
        """Read what the state holds beside the parameters, as far as the method reads it."""
        method = self.made.method
        params, extra = sharding.abstract(method.init, self.made.batch_spec)
        frozen = sharding.abstract(method.frozen, self.made.batch_spec) if method.frozen is not None else {}
        average = self._read("extra/ema", params) if method.averaged else None
        return Carried(self._read("extra/method", extra), self._read("frozen", frozen), average)

    def _read(self, select: str, abstract: Any) -> Any:
        """Read a part of the saved state into the containers of `abstract`."""
        names = layout.flat(sharding.unbox(abstract))
        if not names:
            return sharding.unbox(abstract)
        saved = read_tree(self.workdir.checkpoints / str(self.step), select=select)
        found = layout.flat(saved) if isinstance(saved, dict) else {"": saved}
        return jax.tree.unflatten(jax.tree.structure(sharding.unbox(abstract)), [found[name] for name in names])


def restore(path: str, *, ema: bool = False, config: Any = None) -> Trained:
    """Read and verify parameters, on any machine.

    Args:
      path: a workdir (its newest good step) or WORKDIR/checkpoints/N.
      ema: whether to read the averaged parameters.
      config: used in place of the workdir's `config.json`.

    Raises:
      ConfigError: if there is no such checkpoint, or it has no average.
    """
    folder, _ = locate(path)
    workdir = Workdir(folder.parent)
    config = read_config(workdir) if config is None else config
    has_data = "data" in config
    made = experiment(_completed(config))
    if not has_data:
        made = dataclasses.replace(made, loader=dataclasses.replace(made.loader, source=_Nowhere(path)))
    if ema and made.train.ema_decay is None:
        raise ConfigError(f"{path} keeps no averaged parameters: it was trained without train.ema_decay")
    found, params = read_newest(path, select="extra/ema" if ema else "params")
    return Trained(made, params, found, workdir)


def config_of(path: str) -> ConfigDict:
    """Return the config of a workdir, or of the workdir of a checkpoint.

    Raises:
      ConfigError: if there is no such checkpoint.
    """
    folder, _ = locate(path)
    return read_config(Workdir(folder.parent))


@dataclasses.dataclass(frozen=True)
class _Nowhere:
    """The source of weights that came without data."""

    path: str

    def open(self) -> NoReturn:
        """Raise ConfigError: there are no data."""
        raise ConfigError(f"{self.path} has weights but no data: name the videos")


def _completed(config: ConfigDict) -> ConfigDict:
    """Return the config with defaults for the sections that it lacks."""
    section: Any = config.get("method")
    if section is None and "guide" in config:
        raise ConfigError("the weights are of a guide, a frozen network without a method: init_from takes them")
    if not isinstance(section, ConfigDict) or ("model" not in section and "data" in config):
        return config
    if "model" not in section:
        raise ConfigError(
            "the config has neither data nor a model that determines its clips: import the weights with --config"
        )
    model = build(section.model, "model")
    frames, size, _, channels = model.video_shape
    sampler = call("data.clips.dense", frames=frames, stride=STRIDE)
    method = build(section, "method")
    if method.views > 1:
        sampler = call("data.clips.pair", frames=frames)
    whole = {
        "data": call(
            "data.pipeline.loader",
            source=call("data.sources.folder", path=""),
            sampler=sampler,
            transforms=[call("data.transforms.center_crop", size=size)],
            channels=channels,
            global_batch=jax.device_count(),
        ),
        "optimizer": call("train.optim.adamw", schedule=call("train.schedule.constant", value=0.0)),
        "train": call("train.settings.Training", length={"steps": 0}, ema_decay=1.0 if method.averaged else None),
        "checkpoint": call("train.settings.Checkpointing"),
        "eval": call("train.settings.Evaluation"),
        "mesh": call("train.settings.Mesh"),
        "init_from": ConfigDict(),
        "seed": 0,
    }
    for name, default in whole.items():
        if name not in config:
            config[name] = default
    return config
