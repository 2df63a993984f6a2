"""`vmae bench`: how fast this machine is at the work of a config, and what bounds it."""

import time
from typing import Any

import jax
from ml_collections import ConfigDict

from vmae_jax.bench.input import timed
from vmae_jax.commands.experiment import experiment
from vmae_jax.data.device import host_rows, prefetch_to_device
from vmae_jax.train import sharding

__all__ = ["run_input"]


def run_input(config: ConfigDict, *, seconds: float = 10.0) -> dict[str, Any]:
    """Measures the input of `config` on this host, from the files to the devices.

    Args:
      seconds: that are measured.

    Raises:
      ConfigError: what `experiment` and the source refuse.
    """
    made = experiment(config)
    place = sharding.batch_sharding(made.mesh)
    clips = made.loader.clips_per_step
    rows = host_rows(place, clips)
    stream = made.loader.open().batches(rows=rows, seed=made.seed)
    with prefetch_to_device(stream, place, clips=clips) as batches:

        def step() -> int:
            jax.block_until_ready(next(batches))
            return len(rows)

        rate = timed(step, cpu=time.process_time, seconds=seconds)
    return {"clips_per_second": rate.clips_per_second}
