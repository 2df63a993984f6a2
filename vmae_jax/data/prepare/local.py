"""Do jobs on this machine, several at once, with a progress bar."""

import concurrent.futures
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from vmae_jax.data.prepare.produce import Children, Job, produce
from vmae_jax.data.prepare.run import Runner
from vmae_jax.data.workers import available_cores
from vmae_jax.spec import ConfigError

__all__ = ["local_runner", "run_jobs"]


def local_runner(workers: int | None = None, *, progress: bool = True) -> Runner:
    """Make shards in `workers` processes; by default one a core.

    Raises:
      ConfigError: if `workers` is less than one.
    """
    shown = _Shown()
    return lambda jobs: run_jobs(jobs, workers, on_done=shown.on_done, progress=progress)


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


class _Shown:
    """What of the shards is done."""

    def __init__(self) -> None:
        self._rejected: dict[int, int] = {}
        self._seconds: dict[int, float] = {}

    def on_done(self, shard: int, line: dict[str, Any]) -> str:
        self._rejected[shard], self._seconds[shard] = line["rejected"], line["seconds"]
        return f"{sum(self._seconds.values()) / 3600:.2f} h, {sum(self._rejected.values())} rejected"
