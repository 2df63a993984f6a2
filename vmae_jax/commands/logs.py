"""The writers of a run's metrics: `metrics.jsonl` and those of `config.train.logging`."""

import functools
import importlib.util
import json
from typing import Any

import jax

from vmae_jax.commands import environment
from vmae_jax.commands.experiment import Experiment
from vmae_jax.data.tf import tensorflow
from vmae_jax.io.paths import Workdir, in_bucket
from vmae_jax.io.trackers import TrackioWriter, WandbWriter
from vmae_jax.io.writers import JsonlWriter, TensorBoardWriter, Writer, Writers
from vmae_jax.spec import ConfigError, to_json

__all__ = ["check_trackers", "open_writers"]

TRACKERS = ("wandb", "trackio")


def check_trackers(made: Experiment) -> None:
    """Raise ConfigError if `train.logging` names a service whose package is not installed."""
    for name in TRACKERS:
        if made.train.logging.get(name) and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"config.train.logging.{name}={made.train.logging[name]}: the package {name} is not installed; "
                f"pip install 'vmae-jax[{name}]', or set it to None"
            )


def open_writers(made: Experiment, workdir: Workdir) -> Writers:
    """Return the writers of a run; only those of process 0 write."""
    if jax.process_index() != 0:
        return Writers([])
    logging = made.train.logging
    writers: list[Writer] = [JsonlWriter(workdir.metrics)]
    if logging.get("tensorboard", False):
        tensorflow()  # quietly; `tensorboard` would import it with its notices
        writers.append(TensorBoardWriter(workdir.tensorboard))
    about: dict[str, Any] = {
        "name": workdir.name,
        "identity": functools.partial(environment.identity, workdir),
        "config": json.loads(to_json(made.config)),
    }
    if logging.get("wandb"):
        folder = None if in_bucket(workdir.path) else str(workdir.path)
        writers.append(WandbWriter(logging["wandb"], folder=folder, **about))
    if logging.get("trackio"):
        writers.append(TrackioWriter(logging["trackio"], **about))
    return Writers(writers)
