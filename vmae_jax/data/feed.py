"""Turns positions into batches, with tf.data: fetch and decode, transform, batch, all in order.

    positions -> which video -> fetch; decode, crop and scale in a worker process
              -> one element a clip -> the other transforms -> batch

Every stage runs ahead in parallel and keeps the order (`deterministic=True`); there is no shuffle
buffer and no iterator state: a feed starts anywhere at once.
"""

import atexit
import dataclasses
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from vmae_jax.data.decode import Wanted
from vmae_jax.data.faults import ENOUGH, Fault, Ledger, none_readable
from vmae_jax.data.order import Epoch, Windows, clip_seeds, epoch_of, fold, index_at, past
from vmae_jax.data.pipeline import Loader
from vmae_jax.data.source import Source
from vmae_jax.data.tf import ensured, tensor_types, tensorflow
from vmae_jax.data.transforms import apply
from vmae_jax.data.video import BadVideo
from vmae_jax.data.workers import Closed, Workers, available_cores

__all__ = ["Batches", "Plan", "Reader", "finished", "located", "start_feed", "workers_of"]

_open: "weakref.WeakSet[Batches]" = weakref.WeakSet()
_FRAMES = -1  # the stream of the frame sampler, beside the clips 0, 1, …


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is read: the examples from number `start` on without end, or each of `stop` videos once.

    Example n has position n, or, where windows of positions are left out (`skips`), `order.past(n, skips)`.
    """

    seed: int
    start: int
    stop: int | None
    shuffle: bool
    skips: Windows = ()


def start_feed(loader: Loader, source: Source, rows: Sequence[int], plan: Plan, workers: int) -> "Batches":
    """Starts reading `rows` of each step of `plan`, with so many decoding processes."""
    reader = Reader(loader, source, plan, workers)
    order = np.argsort(np.asarray(rows))
    dataset = _dataset(loader, reader, np.asarray(rows)[order], plan, workers)
    return Batches(dataset, reader, loader, plan, place=np.argsort(order))


def workers_of(loader: Loader, processes: int) -> Workers:
    """The processes that decode for a loader."""
    return Workers(
        processes,
        sampler=loader.sampler,
        crop=loader.crop,
        channels=loader.channels,
        streams=loader.beside.opened(),
        timeout=loader.timeout,
    )


def finished(loader: Loader, video: Any, seed: Any, repeat: Any) -> Any:
    """A clip [t h w c] after the transforms that were not carried out while decoding."""
    done = len(loader.crop.parts) if loader.crop else 0
    video = apply(loader.transforms[done:], {"video": video, "repeat": repeat}, seed, first=done)["video"]
    return tensorflow().ensure_shape(video, loader.clip_specs()["video"].shape)


class Batches(Iterator[dict[str, np.ndarray]]):
    """An iterator of this host's batches: dicts of NumPy arrays that cannot be written to.

    It ends its processes by itself after one pass; what has no end is for `close`, or `with`.
    """

    def __init__(self, dataset: Any, reader: "Reader", loader: Loader, plan: Plan, *, place: np.ndarray) -> None:
        self._iterator: Iterator[Any] | None = dataset.as_numpy_iterator()  # views of TensorFlow's memory
        self._over = False
        self._reader = reader
        self._loader = loader
        self._place = None if np.array_equal(place, np.arange(len(place))) else place
        self._plan = plan
        self._examples = plan.start  # before the next batch
        _open.add(self)

    @property
    def position(self) -> int:
        """Of the next batch, in videos."""
        return past(self._examples, self._plan.skips)

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch.

        Raises:
          StopIteration: the one pass is over.
          TooManyBadVideos: if nothing can be read.
          Closed: `close` was called.
        """
        if self._over:
            raise StopIteration
        if self._iterator is None:
            raise Closed("these batches are closed")
        try:
            batch = next(self._iterator)
        except StopIteration:
            self._over = True
            self.close()
            raise
        if self._reader.error is not None:
            raise self._reader.error
        self._examples += self._loader.global_batch
        return batch if self._place is None else {key: value[self._place] for key, value in batch.items()}

    def faults(self, before: int | None = None) -> list[Fault]:
        """Return the videos that could not be read, of positions not given out yet.

        Args:
          before: positions below this one; by default those of the batches so far, or all after an error.
        """
        if before is None and self._reader.error is None and not self._over:
            before = self.position
        return self._reader.ledger.drain(before)

    @property
    def worker_seconds(self) -> float:
        """Processor time that the decoding processes have spent on videos so far."""
        return self._reader.seconds

    def close(self) -> None:
        """Ends the decoding processes and everything that runs ahead."""
        self._reader.workers.close()  # first, so that nothing is waited for
        self._iterator = None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@atexit.register
def _close_all() -> None:
    """Before the interpreter goes: tf.data's threads would wait for it, and it for them."""
    for batches in list(_open):
        batches.close()


_Found = tuple[dict[str, np.ndarray], list[np.ndarray], int]  # of the clips; the labels of all; the video's number


class Reader:
    """Reads the video at a position, in processes that decode; called from tf.data's threads.

    `reader.workers.close()` ends the processes.
    """

    def __init__(self, loader: Loader, source: Source, plan: Plan, processes: int) -> None:
        self.workers = workers_of(loader, processes)
        self.ledger = Ledger()
        self.error: Exception | None = None
        self.seconds = 0.0
        self._good = False  # some video was read
        self._loader = loader
        self.source = source
        self._plan = plan

    def __call__(self, position: np.ndarray, index: np.ndarray, own: np.ndarray) -> tuple[Any, ...]:
        """seeds [n 2], repeats [n], index, valid, each array of the clips [n …], each label.

        Never raises, for tf.data would print and wrap it: the first error is kept in `error`,
        and the consumer raises it in place of the next batch.
        """
        loader, found = self._loader, None
        every = clip_seeds(self._plan.seed, int(position), loader.clips_per_video)
        seeds = every[own]
        # `repeat` numbers the clips of the same frames: a crop that is not random goes by it.
        views, repeats = own % loader.views, own // loader.views
        bases = every[own - views]  # of the first view of the same repeat
        rows = zip(views.tolist(), repeats.tolist(), seeds.tolist(), bases.tolist(), strict=True)
        wanted = [Wanted(view, repeat, tuple(seed), tuple(base)) for view, repeat, seed, base in rows]
        try:
            if self.error is None:
                found = self._find(int(position), int(index), wanted)
        except Exception as error:
            self.error = self.error or error
        if found is None:
            shapes = loader.clip_specs()
            nothing = [np.zeros((len(own), *spec.shape), spec.dtype) for spec in shapes.values()]
            unlabelled = [np.zeros(spec.shape, spec.dtype) for spec in loader.label_specs().values()]
            return seeds, repeats, np.int32(-1), np.bool_(False), *nothing, *unlabelled
        arrays, labels, used = found
        return seeds, repeats, np.int32(used), np.bool_(True), *arrays.values(), *labels

    def _find(self, position: int, index: int, wanted: list[Wanted]) -> _Found | None:
        """The clips, their labels and the number of their video; None for a row that is not valid."""
        if self._plan.stop is None:
            return self._first_good(index, position, wanted)
        return self._try(index, position, wanted, drawn=True) if position < self._plan.stop else None

    def _first_good(self, index: int, position: int, wanted: list[Wanted]) -> _Found:
        """The video, or the next one in the source that can be read: a rule, not chance."""
        videos = len(self.source)
        for step in range(videos):
            if step >= ENOUGH and not self._good and self._loader.max_bad_fraction < 1:
                raise none_readable(videos, step, self.ledger.faults())
            found = self._try((index + step) % videos, position, wanted, drawn=step == 0)
            if found is not None:
                return found
        raise none_readable(videos, videos, self.ledger.faults())

    def _try(self, index: int, position: int, wanted: list[Wanted], *, drawn: bool) -> _Found | None:
        if self.ledger.known(index, position, drawn=drawn):
            return None
        key = f"video {index}"
        try:
            encoded = self.source.fetch(index)
            key = encoded.key or key
            word = fold(self._plan.seed, position, _FRAMES)
            decoded = self.workers.decode(encoded, np.array([word >> 32, word & 0xFFFFFFFF], np.uint32), wanted)
        except BadVideo as error:
            self.ledger.bad(Fault(key, str(error), index, error.kind, drawn), position)
            return None
        labels = [
            field.array(encoded.labels.get(name), f"loader: labels[{name!r}]: {key}")
            for name, field in self._loader.labels.items()
        ]
        self._good = True
        self.seconds += decoded.decoding + decoded.cropping
        return decoded.arrays, labels, index


def located(
    loader: Loader, rows: np.ndarray, plan: Plan, epoch: Epoch, start: int
) -> tuple[int, Callable[[Any], tuple[Any, Any, Any]]]:
    """Return how many videos of each step this host reads, and where they are.

    Args:
      loader: whose clips they are.
      rows: of this host, ascending.
      plan: what is read.
      epoch: of the source.
      start: number of the first example.

    Returns:
      the number, and a function for a graph: n, counted over the videos that this host reads -> the position of the
      video, its number in the source, and which of its clips are this host's.
    """
    tf, clips = tensorflow(), loader.clips_per_video
    slots, firsts = np.unique(rows // clips, return_index=True)
    bounds, own = tf.constant([*firsts, len(rows)], tf.int64), tf.constant(rows % clips, tf.int64)

    def locate(count: Any) -> tuple[Any, Any, Any]:
        slot = count % len(slots)
        example = start + count // len(slots) * loader.global_batch + tf.constant(slots, tf.int64)[slot]
        position = past(example, plan.skips)
        index = index_at(position, epoch=epoch, seed=plan.seed, shuffle=plan.shuffle)
        return position, index, own[bounds[slot] : bounds[slot + 1]]

    return len(slots), locate


def _dataset(loader: Loader, reader: Reader, rows: np.ndarray, plan: Plan, workers: int) -> Any:
    tf = tensorflow()
    shared, read_as = loader.label_specs(), loader.read_specs()
    # One pass is every video once, whatever the weights of a mixture.
    epoch = epoch_of(reader.source) if plan.stop is None else Epoch((plan.stop,), (plan.stop,))
    videos, locate = located(loader, rows, plan, epoch, plan.start)

    def read(position: Any, index: Any, own: Any) -> tuple[Any, ...]:
        types = [tf.uint32, tf.int64, tf.int32, tf.bool, *tensor_types(read_as), *tensor_types(shared)]
        seeds, repeats, used, valid, *rest = tf.numpy_function(reader, [position, index, own], types)
        arrays = ensured(rest[: len(read_as)], read_as, clips=True)
        labels = ensured(rest[len(read_as) :], shared, clips=False)
        seeds, repeats = tf.ensure_shape(seeds, [None, 2]), tf.ensure_shape(repeats, [None])
        return (
            arrays,
            seeds,
            repeats,
            {"index": tf.ensure_shape(used, []), "valid": tf.ensure_shape(valid, []), **labels},
        )

    def spread(arrays: Any, seeds: Any, repeats: Any, shared: Any) -> Any:
        return tf.data.Dataset.from_tensor_slices((arrays, seeds, repeats)).map(lambda *clip: (*clip, shared))

    def finish(arrays: Any, seed: Any, repeat: Any, shared: Any) -> dict[str, Any]:
        return {**arrays, "video": finished(loader, arrays["video"], seed, repeat), "seed": seed, **shared}

    cores = available_cores()
    steps = -(-plan.stop // loader.global_batch) if plan.stop is not None else (1 << 62) // videos
    # No stage branches on a tensor, and converting the source of its functions takes a second at each start.
    as_written = tf.autograph.experimental.do_not_convert
    dataset = tf.data.Dataset.range(steps * videos).map(as_written(locate))
    dataset = dataset.map(as_written(read), num_parallel_calls=workers + 1, deterministic=True)
    dataset = dataset.flat_map(as_written(spread))
    dataset = dataset.map(as_written(finish), num_parallel_calls=cores, deterministic=True)
    dataset = dataset.batch(len(rows), drop_remainder=True).prefetch(loader.prefetch)
    return dataset.with_options(_options(tf, threads=workers + 1 + cores))


def _options(tf: Any, *, threads: int) -> Any:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # it would only move memory about: every stage's width is set
    options.threading.private_threadpool_size = threads  # waiting for a worker holds a thread
    options.threading.max_intra_op_parallelism = 1
    return options
