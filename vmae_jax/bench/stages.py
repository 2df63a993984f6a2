"""The stages of the input, each by itself and as parallel as in the pipeline, to measure its cost."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from vmae_jax.data.decode import Wanted
from vmae_jax.data.feed import workers_of
from vmae_jax.data.opened import Opened
from vmae_jax.data.tf import tensorflow
from vmae_jax.data.transforms import apply
from vmae_jax.data.video import BadVideo, Encoded
from vmae_jax.data.workers import Workers, available_cores

__all__ = ["Stage", "stages"]

_VIDEOS = 32  # different videos to measure


class Stage(NamedTuple):
    """One stage of the input.

    Attributes:
      name: read, decode, crop, augment or batch.
      step: processes some clips and returns their number.
      elsewhere: returns the processor seconds so far in its other processes.
    """

    name: str
    step: Callable[[], int]
    elsewhere: Callable[[], float]


@contextlib.contextmanager
def stages(opened: Opened, rows: Sequence[int], *, seed: int) -> Iterator[list[Stage]]:
    """Yield the stages of reading `rows` of each step, in order, without those that the loader does not have.

    Args:
      rows: as of `Opened.batches`.
      seed: of the frames and crops.

    Raises:
      BadVideo: if none of the first videos can be read.
    """
    loader = opened.loader
    count = loader.workers or available_cores()
    own = max(1, len(rows) // len({row // loader.clips_per_video for row in rows}))
    wanted = [Wanted(clip % loader.views, clip // loader.views, (seed, clip)) for clip in range(own)]
    workers = workers_of(loader, count)
    with ThreadPoolExecutor(count) as pool:
        try:
            good = _readable(opened, workers, wanted)
            decoder = _Decoding(workers, pool, good, wanted, batch=2 * count)
            yield [
                Stage("read", _reading(opened, [index for index, _ in good], own), _nothing),
                Stage("decode and crop", decoder.step, decoder.seconds),
                *_tensor_stages(opened, good, workers, wanted, len(rows)),
            ]
        finally:
            workers.close()


def _readable(opened: Opened, workers: Workers, wanted: list[Wanted]) -> list[tuple[int, Encoded]]:
    good, reason = [], "the source is empty"
    for index in range(min(len(opened), _VIDEOS)):
        try:
            encoded = opened.source.fetch(index)
            workers.decode(encoded, np.array([index, 0], np.uint32), wanted)
            good.append((index, encoded))
        except BadVideo as error:
            reason = f"{encoded.key} {error}"
    if not good:
        raise BadVideo(f"none of the first videos can be read: {reason}")
    return good


def _reading(opened: Opened, indices: list[int], own: int) -> Callable[[], int]:
    """Fetching, including the bytes of a file, which otherwise only a worker reads."""
    endless = itertools.cycle(indices)

    def step() -> int:
        encoded = opened.source.fetch(next(endless))
        for path in (
            [encoded.path] if encoded.path else [part for part in encoded.frames or () if isinstance(part, str)]
        ):
            with open(path, "rb", buffering=0) as file:
                start, size = encoded.span or (0, -1)
                file.seek(start)
                file.read(size)
        return own

    return step


class _Decoding:
    """Busy workers, and the time that they spend."""

    def __init__(self, workers: Workers, pool: ThreadPoolExecutor, good: Any, wanted: Any, *, batch: int) -> None:
        self.spent = 0.0
        self._workers, self._pool, self._wanted, self._batch = workers, pool, wanted, batch
        self._jobs = zip(itertools.cycle(encoded for _, encoded in good), itertools.count(), strict=False)

    def step(self) -> int:
        jobs = itertools.islice(self._jobs, self._batch)
        for decoded in self._pool.map(self._one, jobs):
            self.spent += decoded.decoding + decoded.cropping
        return self._batch * len(self._wanted)

    def seconds(self) -> float:
        return self.spent

    def _one(self, job: tuple[Encoded, int]) -> Any:
        return self._workers.decode(job[0], np.array([job[1], 1], np.uint32), self._wanted)


def _tensor_stages(opened: Opened, good: Any, workers: Workers, wanted: Any, rows: int) -> Iterator[Stage]:
    """The part of tf.data: the remaining transforms, and batching."""
    tf, loader = tensorflow(), opened.loader
    done = len(loader.crop.parts) if loader.crop else 0
    clip = np.array(workers.decode(good[0][1], np.array([0, 1], np.uint32), wanted).arrays["video"][0])
    video = tf.constant(clip)
    if rest := loader.transforms[done:]:
        cores = available_cores()

        def change(number: Any) -> Any:
            return apply(rest, {"video": video, "repeat": 0}, tf.stack([number, number]), first=done)["video"]

        changed = iter(tf.data.Dataset.range(1 << 60).map(change, num_parallel_calls=cores))
        yield Stage("augment", lambda: sum(1 for _ in itertools.islice(changed, 2 * cores)), _nothing)
    ready = {name: tf.zeros(spec.shape, spec.dtype) for name, spec in loader.clip_specs().items()}
    batches = tf.data.Dataset.range(1 << 60).map(lambda _: ready).batch(rows).as_numpy_iterator()
    yield Stage("batch", lambda: len(next(batches)["video"]), _nothing)


def _nothing() -> float:
    return 0.0
