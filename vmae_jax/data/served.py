"""Batches that other machines decode: the trainer's end of the tf.data service (see `service`)."""

import contextlib
import json
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vmae_jax.data.faults import Fault, Ledger
from vmae_jax.data.feed import Plan, located
from vmae_jax.data.order import Windows, epoch_of, kept, past
from vmae_jax.data.pipeline import Loader
from vmae_jax.data.service import PROTOCOL, SECRET, SECRET_FILE, check_address, function_name, read_secret, signature
from vmae_jax.data.source import Source
from vmae_jax.data.tf import ensured, tensor_types, tensorflow
from vmae_jax.data.workers import Closed
from vmae_jax.spec import ConfigError

__all__ = ["ServedBatches", "windows"]

STALL_SECONDS = 120.0  # without a clip from any worker: what is missing is asked for again
_PASSES = 5  # that bring nothing, before it is given up

Clip = dict[str, np.ndarray]


def windows(start: int, *, epoch: int, batch: int, skips: Windows = ()) -> Iterator[tuple[int, int]]:
    """The parts of a run within which the order is loose: (first example, steps), each to the end of an epoch.

    A step that two epochs share belongs to the first. Of an epoch only what is not left out (`skips`) counts.
    """
    while True:
        end = (past(start, skips) // epoch + 1) * epoch
        steps = -(-(kept(end, skips) - start) // batch)
        yield start, steps
        start += steps * batch


class ServedBatches(Iterator[dict[str, np.ndarray]]):
    """As `feed.Batches`, but the clips of an epoch come in any order.

    Raises:
      ConfigError: nothing listens at the service's address, or there is no secret to sign requests with.
    """

    def __init__(self, loader: Loader, source: Source, rows: Sequence[int], plan: Plan) -> None:
        assert loader.service is not None
        check_address(loader.service)
        self._secret = read_secret()
        self._examples = plan.start  # before the next batch
        self._loader, self._source, self._plan = loader, source, plan
        self._rows = np.sort(np.asarray(rows))
        self._ledger = Ledger()
        self._stop = threading.Event()
        self._failed: BaseException | None = None
        self._ready: queue.Queue[Clip | BaseException] = queue.Queue((loader.prefetch + 1) * len(rows))
        self._thread = threading.Thread(target=self._work, name="data service", daemon=True)
        self._thread.start()

    @property
    def position(self) -> int:
        """Of the next batch, in videos."""
        return past(self._examples, self._plan.skips)

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch.

        Raises:
          ConfigError: a worker cannot read the run's data.
          Closed: `close` was called.
          RuntimeError: no worker gives anything.
        """
        clips = [self._clip() for _ in self._rows]
        self._examples += self._loader.global_batch
        return {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}

    def faults(self, before: int | None = None) -> list[Fault]:
        """Return the videos that could not be read, whatever their positions: clips come in any order."""
        return self._ledger.drain()

    @property
    def worker_seconds(self) -> float:
        """Processor time that decoding takes on this machine: none."""
        return 0.0

    def close(self) -> None:
        """Stops reading; a thread that waits for a worker goes when that answers, or with the process."""
        self._stop.set()

    def __enter__(self) -> "ServedBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _clip(self) -> Clip:
        while self._failed is None:
            try:
                clip = self._ready.get(timeout=0.5)
            except queue.Empty:
                self._failed = Closed("these batches are closed") if self._stop.is_set() else None
                continue
            if not isinstance(clip, BaseException):
                return clip
            self._failed = clip
        raise self._failed

    def _work(self) -> None:
        """Reads window after window; what goes wrong is handed to the consumer."""
        try:
            epoch = epoch_of(self._source).length
            plan, batch = self._plan, self._loader.global_batch
            for start, steps in windows(plan.start, epoch=epoch, batch=batch, skips=plan.skips):
                for clip in self._window(start, steps):
                    self._put(self._ready, clip)
        except _Stopped:
            pass  # `close` was called, and nobody waits
        except BaseException as error:  # it belongs to the consumer
            with contextlib.suppress(_Stopped):
                self._put(self._ready, _plain(error))

    def _put(self, to: "queue.Queue[Any]", item: Any, over: threading.Event | None = None) -> None:
        while not (self._stop.is_set() or (over is not None and over.is_set())):
            try:
                return to.put(item, timeout=0.2)
            except queue.Full:
                continue
        raise _Stopped

    def _window(self, start: int, steps: int) -> Iterator[Clip]:
        """Every clip of these steps once, whatever the workers lose or send twice."""
        missing = set(range(steps * len(np.unique(self._rows // self._loader.clips_per_video))))
        vain = 0
        while missing:
            before = len(missing)
            for number, seeds, index, valid, notes, arrays, labels in self._answers(start, missing):
                if int(number) in missing:
                    missing.discard(int(number))
                    self._count(notes)
                    for row, seed in enumerate(seeds):
                        clip = {name: array[row] for name, array in arrays.items()}
                        yield {**clip, "seed": seed, "index": index, "valid": valid, **labels}
                if not missing:
                    break  # an engine that waits for a worker that is gone is not waited for
            vain = vain + 1 if len(missing) == before else 0
            if vain == _PASSES:
                raise RuntimeError(
                    f"the data service at {self._loader.service} gives nothing: has it workers, and are they alive? "
                    "vmae data serve --dispatcher=… starts one"
                )

    def _answers(self, start: int, missing: set[int]) -> Iterator[tuple[Any, ...]]:
        """What comes for the videos numbered `missing`, until all has come or nothing comes any more."""
        arrived: queue.Queue[Any] = queue.Queue(2)
        over = threading.Event()
        request = self._request(start, missing)

        def pull() -> None:
            with contextlib.suppress(_Stopped):
                try:
                    for answer in request:
                        self._put(arrived, answer, over)
                    self._put(arrived, None, over)
                except _Stopped:
                    raise
                except BaseException as error:
                    self._put(arrived, error, over)

        threading.Thread(target=pull, name="data service", daemon=True).start()
        try:
            yield from self._arrivals(arrived)
        finally:
            over.set()

    def _arrivals(self, arrived: "queue.Queue[Any]") -> Iterator[tuple[Any, ...]]:
        """Until None comes, or nothing for too long."""
        patience = max(STALL_SECONDS, 2 * self._loader.timeout)
        waited = 0.0
        while waited < patience:
            if self._stop.is_set():
                raise _Stopped
            try:
                answer = arrived.get(timeout=0.5)
            except queue.Empty:
                waited += 0.5
                continue
            if answer is None:
                return
            if isinstance(answer, BaseException):
                raise answer
            waited = 0.0
            yield answer

    def _count(self, notes: bytes) -> None:
        for fault in json.loads(notes):
            self._ledger.bad(Fault(*fault), position=0)

    def _request(self, start: int, missing: set[int]) -> Iterator[tuple[Any, ...]]:
        """What the workers answer to the videos numbered `missing` of the window at `start`."""
        tf, loader = tensorflow(), self._loader
        videos, locate = located(loader, self._rows, self._plan, epoch_of(self._source), start)

        def remote(number: Any) -> tuple[Any, ...]:
            position, index, mine = locate(number)
            where = {"secret": self._secret, "seed": self._plan.seed, "videos": len(self._source)}
            return number, *_call_remote(loader, loader.recipe, position=position, index=index, own=mine, **where)

        whole = len(missing) == max(missing) + 1
        numbers = tf.data.Dataset.range(len(missing)) if whole else tf.data.Dataset.from_tensor_slices(sorted(missing))
        numbers = numbers.map(lambda number: tf.cast(number, tf.int64))
        dataset = numbers.map(remote, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
        service = tf.data.experimental.service
        dataset = dataset.apply(
            service.distribute(
                processing_mode=service.ShardingPolicy.DYNAMIC,
                service=f"{PROTOCOL}://{loader.service}",
                compression=None,  # pixels hardly shrink, and the network is not what is short
                max_outstanding_requests=max(2, loader.prefetch * videos),
            )
        )
        return dataset.as_numpy_iterator()


def _call_remote(
    loader: Loader, recipe: str, *, secret: bytes, seed: int, videos: int, position: Any, index: Any, own: Any
) -> Any:
    """The clips `own` of the video `index` at `position`, in a graph that a worker carries out.

    Args:
      loader: whose clips they are.
      recipe: its config as JSON.
      secret: that the workers have too.
      seed: of the run.
      videos: how many the trainer's source has; a worker that sees others refuses.
      position, index, own: tensors, as the feed's reader takes them.

    Returns:
      seeds [n 2], index, valid, notes (JSON: the broken videos met), the arrays of the clips by name, and the labels.
    """
    tf = tensorflow()
    arrays, labels = loader.clip_specs(), loader.label_specs()
    seed &= (1 << 63) - 1
    signed = signature(secret, recipe, seed, videos)
    inputs = [tf.constant(signed), tf.constant(recipe), tf.constant(seed, tf.int64), tf.constant(videos, tf.int64)]
    types = [tf.uint32, tf.int32, tf.bool, tf.string, *tensor_types(arrays), *tensor_types(labels)]
    seeds, used, valid, notes, *rest = tf.raw_ops.PyFunc(
        input=[*inputs, position, index, own], token=function_name(secret), Tout=types
    )
    scalars = [tf.ensure_shape(value, []) for value in (used, valid, notes)]
    clips = ensured(rest[: len(arrays)], arrays, clips=True)
    return tf.ensure_shape(seeds, [None, 2]), *scalars, clips, ensured(rest[len(arrays) :], labels, clips=False)


class _Stopped(Exception):  # noqa: N818 - no error: somebody stopped
    """`close` was called."""


def _plain(error: BaseException) -> BaseException:
    """A worker's exception, which TensorFlow wraps, in our words."""
    if not isinstance(error, tensorflow().errors.OpError):
        return error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any("Could not find callback" in line for line in lines):  # no function of the name that our secret gives
        return ConfigError(
            f"a worker of the data service has another secret than this training (${SECRET} or ${SECRET_FILE})"
        )
    for line in lines:
        for kind in ("ConfigError: ", "TooManyBadVideos: "):
            if kind in line:
                return ConfigError(f"a worker of the data service: {line.partition(kind)[2]}")
    return RuntimeError(f"the data service failed: {' '.join(lines)[:500]}")
