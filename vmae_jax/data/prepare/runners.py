"""Where the jobs of a preparation are done: on this machine, several at once, or in an Apache Beam pipeline.

The bytes are the same: a job is done by the same process (`produce`), and the plan and the metadata are written by the
process that was started. So a pipeline that was stopped is started again with the same command and makes what is
missing, on this machine or on others. Beam is needed for nothing else.
"""

import concurrent.futures
import functools
import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from vmae_jax.data.prepare.make import ShardJob
from vmae_jax.data.prepare.produce import Children, Job, produce
from vmae_jax.data.prepare.run import Runner
from vmae_jax.data.workers import available_cores
from vmae_jax.spec import ConfigError

__all__ = ["beam_runner", "local_runner", "run_jobs"]


def local_runner(workers: int | None = None, *, progress: bool = True) -> Runner:
    """Make shards in `workers` processes; by default one a core.

    Raises:
      ConfigError: if `workers` is less than one.
    """
    rejected: dict[int, int] = {}  # by shard
    seconds: dict[int, float] = {}

    def on_done(shard: int, line: dict[str, Any]) -> str:
        rejected[shard], seconds[shard] = line["rejected"], line["seconds"]
        return f"{sum(seconds.values()) / 3600:.2f} h, {sum(rejected.values())} rejected"

    return lambda jobs: run_jobs(jobs, workers, on_done=on_done, progress=progress)


def run_jobs(
    jobs: Sequence[Job],
    workers: int | None = None,
    *,
    on_done: Callable[[int, dict[str, Any]], str],
    progress: bool = True,
) -> None:
    """Do jobs, several at once, and shows a bar of their videos.

    Args:
      jobs: what to do.
      workers: processes; by default one a core.
      on_done: called with the number of a job and what its process reports of a video; returns the text beside the bar.
      progress: show the bar.

    Raises:
      ConfigError: if `workers` is less than one.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers}: at least 1")
    children, lock = Children(), threading.Lock()
    pool = concurrent.futures.ThreadPoolExecutor(workers or available_cores())
    done: dict[int, int] = {}
    with tqdm(total=sum(len(job.part) for job in jobs), unit="video", disable=not progress or not jobs) as bar:

        def listen(number: int, line: dict[str, Any]) -> None:
            if "done" not in line:
                return
            with lock:  # a job that is begun again comes to its videos again
                count = max(line["done"] + 1, done.get(number, 0))
                bar.update(count - done.get(number, 0))
                done[number] = count
                bar.set_postfix_str(on_done(number, line), refresh=False)

        try:
            futures = [
                pool.submit(produce, job, on_message=functools.partial(listen, job.number), children=children)
                for job in jobs
            ]
            for future in concurrent.futures.as_completed(futures):
                future.result()
        finally:
            children.kill()
            pool.shutdown(cancel_futures=True)


def beam_runner(arguments: Sequence[str] = ()) -> Runner:
    """Make shards in a pipeline of Apache Beam, on many machines; each element is a shard's job.

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
