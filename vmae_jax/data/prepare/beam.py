"""The same preparation as an Apache Beam pipeline: many machines, identical bytes.

Every element is a shard's job; what makes it is what makes it here (`produce`), and the plan and the metadata
are written by the process that starts the pipeline. So a pipeline that was stopped is started again
with the same command and makes what is missing, on this machine or on others. Needs `apache-beam`,
which nothing else in this project does.
"""

import importlib
from collections.abc import Sequence
from typing import Any

from vmae_jax.data.prepare.make import ShardJob
from vmae_jax.data.prepare.produce import produce
from vmae_jax.data.prepare.run import Runner
from vmae_jax.spec import ConfigError

__all__ = ["beam_runner"]


def beam_runner(arguments: Sequence[str] = ()) -> Runner:
    """Makes shards in a Beam pipeline.

    Args:
      arguments: of the pipeline, such as "--runner=FlinkRunner"; by default Beam's local runner.

    Raises:
      ConfigError: apache-beam is not installed, or does not take the arguments.
    """
    beam = _beam()
    try:
        options = beam.options.pipeline_options.PipelineOptions(list(arguments), save_main_session=False)
    except SystemExit as error:
        raise ConfigError(f"--beam={' '.join(arguments)!r}: these are no arguments of Apache Beam") from error

    def run(jobs: Sequence[ShardJob]) -> None:
        if not jobs:
            return
        with beam.Pipeline(options=options) as pipeline:
            shards = pipeline | "Shards" >> beam.Create(jobs, reshuffle=False) | "Spread" >> beam.Reshuffle()
            _ = shards | "Make" >> beam.Map(_make)

    return run


def _make(job: ShardJob) -> int:
    """One shard, unless an earlier attempt of this element was finished."""
    if not job.layout.report(job.number).exists():
        produce(job)
    return job.number


def _beam() -> Any:
    try:
        beam = importlib.import_module("apache_beam")
        importlib.import_module("apache_beam.options.pipeline_options")
    except ImportError as error:
        raise ConfigError(
            f"--beam needs Apache Beam: pip install 'vmae-jax[beam]' ({error}); without --beam nothing does"
        ) from error
    return beam
