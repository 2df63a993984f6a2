"""`vmae bench input`: how fast this host feeds its devices, by stage, and which stage limits it."""

import math
import sys
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vmae_jax.bench.input import Rate, report, table, timed
from vmae_jax.bench.stages import stages
from vmae_jax.commands.experiment import Experiment, experiment
from vmae_jax.data.opened import open_loader
from vmae_jax.data.workers import available_cores
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding
from vmae_jax.train.device import host_rows, prefetch_to_device, to_device

__all__ = ["run_input"]


def run_input(
    config: ConfigDict, *, seconds: float = 10.0, step_seconds: float | None = None, hosts: int = 1
) -> dict[str, Any]:
    """Measure the input of `config` on this host, from the files to the devices.

    With a data service, only the stages on this host are measured, and the rate at which the service delivers.

    Args:
      config: any.
      seconds: duration of each measurement: every stage, and all of them together.
      step_seconds: duration of a training step; the report then has how many cores keep up with it.
      hosts: of the pod to project to, each like this one.

    Raises:
      ConfigError: if `experiment` or the source refuses the config, or a number is out of range.
    """
    if seconds <= 0 or hosts < 1 or (step_seconds is not None and step_seconds <= 0):
        raise ConfigError("vmae bench input: --seconds and --step-seconds are positive, --hosts is at least 1")
    made = experiment(config)
    served = made.loader.service is not None
    if served and (step_seconds is not None or hosts > 1):
        raise ConfigError(
            "vmae bench input: --step-seconds and --hosts need hosts that decode, but data.service is set"
        )
    opened = open_loader(made.loader)
    rates = {"transfer": _transfer(made, seconds)} if served else _stages(made, opened, seconds)
    whole = _together(made, opened, seconds)
    clips = made.loader.clips_per_step
    found = report(
        rates,
        whole,
        cores=available_cores(),
        clips=clips,
        step_seconds=step_seconds,
        hosts=hosts,
        row_bytes=_row_bytes(made),
        served=served,
    )
    print(table(found), file=sys.stderr)
    return found


def _row_bytes(made: Experiment) -> dict[str, int]:
    """The bytes of each array of a batch, for one clip."""
    return {name: math.prod(part.shape[1:]) * part.dtype.itemsize for name, part in made.batch_spec.items()}


def _stages(made: Experiment, opened: Any, seconds: float) -> dict[str, Rate]:
    """Return the rate of each stage by itself."""
    place, clips = sharding.batch_sharding(made.mesh), made.loader.clips_per_step
    rows = host_rows(place, clips)
    rates = {}
    with stages(opened, rows, seed=made.seed) as parts:
        for stage in parts:
            cpu = lambda stage=stage: time.process_time() + stage.elsewhere()  # noqa: E731
            rates[stage.name] = timed(stage.step, cpu=cpu, seconds=seconds)
    return rates | {"transfer": _transfer(made, seconds)}


def _transfer(made: Experiment, seconds: float) -> Rate:
    """From this host's memory to its devices."""
    place, clips = sharding.batch_sharding(made.mesh), made.loader.clips_per_step
    rows = host_rows(place, clips)
    batch = {name: np.zeros((len(rows), *part.shape[1:]), part.dtype) for name, part in made.batch_spec.items()}

    def transfer() -> int:
        jax.block_until_ready(to_device(batch, place, clips))
        return len(rows)

    return timed(transfer, cpu=time.process_time, seconds=seconds)


def _together(made: Experiment, opened: Any, seconds: float) -> Rate:
    """Return the rate of the whole input, as in training, without a step."""
    place, clips = sharding.batch_sharding(made.mesh), made.loader.clips_per_step
    rows = host_rows(place, clips)
    stream = opened.batches(rows=rows, seed=made.seed)
    with prefetch_to_device(stream, place, clips=clips) as batches:

        def step() -> int:
            jax.block_until_ready(next(batches))
            return len(rows)

        for _ in range(made.loader.prefetch + 2):  # skip the batches that were read ahead while the workers started
            step()
        return timed(step, cpu=lambda: time.process_time() + stream.worker_seconds, seconds=seconds)
