"""Makes shards on this machine, several at once, with a progress bar."""

import concurrent.futures
import threading
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from vmae_jax.data.prepare.produce import Children, produce
from vmae_jax.data.prepare.run import Runner
from vmae_jax.data.prepare.shards import ShardJob
from vmae_jax.data.workers import available_cores
from vmae_jax.spec import ConfigError

__all__ = ["local_runner"]


def local_runner(workers: int | None = None, *, progress: bool = True) -> Runner:
    """A runner on `workers` processes; by default one a core.

    Raises:
      ConfigError: less than one.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers}: at least 1")

    def run(jobs: Sequence[ShardJob]) -> None:
        children = Children()
        videos = sum(len(job.part) for job in jobs)
        pool = concurrent.futures.ThreadPoolExecutor(workers or available_cores())
        with tqdm(total=videos, unit="video", disable=not progress or not jobs, smoothing=0.05) as bar:
            shown = _Shown(bar)
            try:
                futures = [pool.submit(produce, job, hear=shown.of(job.number), children=children) for job in jobs]
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            finally:
                children.kill()
                pool.shutdown(cancel_futures=True)

    return run


class _Shown:
    """The bar, told by many processes."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._lock = threading.Lock()
        self._rejected: dict[int, int] = {}
        self._seconds: dict[int, float] = {}
        self._done: dict[int, int] = {}

    def of(self, shard: int) -> Any:
        """Takes what the process of a shard says."""

        def hear(line: dict[str, Any]) -> None:
            if "done" not in line:
                return
            with self._lock:
                done = line["done"] + 1  # a shard that is begun again counts its videos again
                self._bar.update(max(0, done - self._done.get(shard, 0)))
                self._done[shard] = max(done, self._done.get(shard, 0))
                self._rejected[shard], self._seconds[shard] = line["rejected"], line["seconds"]
                hours = sum(self._seconds.values()) / 3600
                self._bar.set_postfix_str(f"{hours:.2f} h, {sum(self._rejected.values())} rejected", refresh=False)

        return hear
