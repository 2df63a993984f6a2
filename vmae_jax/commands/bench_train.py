"""`vmae bench train`: steps on the stream of clips, compared with steps on one batch in memory."""

import sys
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from vmae_jax.bench.step import interleaved
from vmae_jax.commands.bench_step import Running
from vmae_jax.commands.experiment import experiment
from vmae_jax.data.opened import open_loader
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding
from vmae_jax.train.device import host_rows, prefetch_to_device

__all__ = ["run_train"]

BLOCK = 5  # least steps of a turn


def run_train(config: ConfigDict, *, rounds: int = 10) -> dict[str, Any]:
    """Measure training end to end, and which share of the step's own rate it reaches.

    Two sides alternate: steps on the stream of the config's clips, and steps on one batch that stays on the devices.
    During the second the stream reads ahead, so a turn has more steps than the pipeline holds batches.

    Args:
      config: any.
      rounds: of two turns each that are measured.

    Raises:
      ConfigError: if `experiment` or the source refuses the config.
    """
    if rounds < 1:
        raise ConfigError(f"vmae bench train: --rounds must be at least 1, got {rounds}")
    made = experiment(config, trains=True)
    running = Running.start(made)
    place, clips = sharding.batch_sharding(made.mesh), made.loader.clips_per_step
    ahead = made.loader.prefetch + 2
    block = max(BLOCK, 3 * ahead)
    stream = open_loader(made.loader).batches(rows=host_rows(place, clips), seed=made.seed)
    fixed, waited = running.batch, [0.0]
    with prefetch_to_device(stream, place, clips=clips) as batches:

        def streamed() -> float:
            began = time.perf_counter()
            for _ in range(block):
                asked = time.perf_counter()
                running.batch = next(batches)
                waited[0] += time.perf_counter() - asked
                running.take()
            return time.perf_counter() - began

        def still() -> float:
            running.batch = fixed
            return sum(running.take() for _ in range(block))

        streamed()
        waited[0] = 0.0
        took = interleaved({"train": streamed, "step": still}, rounds=rounds, warmup=0)
    train, step = took["train"], took["step"]
    report = {
        "device": jax.devices()[0].device_kind,
        "clips_per_step": clips,
        "steps_per_turn": block,
        "rounds": rounds,
        "clips_per_second": clips * block / train.median,
        "step_clips_per_second": clips * block / step.median,
        "share_of_step": step.median / train.median,
        "data_wait": waited[0] / sum(train.seconds),
        "spread": {"train": train.spread, "step": step.spread},
    }
    print(_table(report), file=sys.stderr)
    return report


def _table(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    waited, share = 100 * report["data_wait"], 100 * report["share_of_step"]
    return (
        f"training     {report['clips_per_second']:.1f} clips/s, {waited:.1f}% of it waiting for data\n"
        f"step alone   {report['step_clips_per_second']:.1f} clips/s\n"
        f"share        {share:.1f}% of the step's own rate, {report['rounds']} turns of "
        f"{report['steps_per_turn']} steps each"
    )
