"""A loader with its source open: batches from any position, and the host memory that reading ahead takes.

That memory is computed before it is taken, and kept to: every queue of the input has a length, and every place in it
a size. Where their sum is above the budget, less is read ahead and by fewer processes, which changes the speed and
nothing else.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from vmae_jax.data.beside import WithImages, examples_of, images_of, rows_of, seed_of
from vmae_jax.data.faults import check_missing
from vmae_jax.data.feed import Batches, Plan, start_feed
from vmae_jax.data.order import apart, epoch_of
from vmae_jax.data.pipeline import Loader
from vmae_jax.data.served import ServedBatches
from vmae_jax.data.source import Source, record_bytes
from vmae_jax.data.workers import available_cores
from vmae_jax.spec import ConfigError

__all__ = ["Budget", "Opened", "OwnLoader", "available_memory", "budget", "fitted", "open_loader"]

GIB = 1 << 30
PROCESS = 96 << 20  # a decoding process: 60 to 90 MiB were measured on 340x256
PICTURE = 640 * 480  # pixels of a frame that leaves the decoder uncropped, where its size is not known yet
COPIES = 7  # of a record on its way: read, parsed, taken out, sent; and received, joined, unpickled by the worker
ON_THE_WAY = 3  # batches beside those made ahead: being put together, waiting for the devices, going there


@runtime_checkable
class OwnLoader(Protocol):
    """What a plugin registers as a "loader": it opens itself, and `open` returns what has the methods of `Opened`.

    The attributes are those of `data.pipeline.Loader`; `service` is None where nothing is read by another program.
    """

    global_batch: int
    clips_per_video: int
    repeat: int
    prefetch: int
    max_bad_fraction: float
    service: Any

    @property
    def clips_per_step(self) -> int: ...

    def spec(self) -> Mapping[str, Any]: ...

    def open(self) -> Any: ...


_OWN = {name for name in (*OwnLoader.__annotations__, *vars(OwnLoader)) if not name.startswith("_")}


def open_loader(loader: Loader | OwnLoader) -> Any:
    """Open the source of a loader; a loader of a plugin opens itself.

    Raises:
      ConfigError: if it is not there or empty, has not these labels, too many of its files are missing, or a file that
        a stream needs for all videos cannot be read.
    """
    if not isinstance(loader, Loader):
        if not isinstance(loader, OwnLoader):
            lacking = [name for name in sorted(_OWN) if not hasattr(loader, name)]
            raise ConfigError(
                f"loader: {type(loader).__name__} has no {', '.join(lacking)} (see data.opened.OwnLoader)"
            )
        return loader.open()
    loader.beside.opened()
    source = loader.source.open()
    check_missing(getattr(source, "missing", None), loader.max_bad_fraction)
    for name, field in loader.labels.items():
        names = source.label_names.get(name, ())
        if field.kind == "many" and len(names) > field.size:
            raise ConfigError(f"loader: labels[{name!r}] has {field.size} classes, the source {len(names)}")
        if names:
            continue
        given = source.fetch(0).labels
        if name not in given:
            has = f"only {', '.join(given)}" if given else "none at all"
            raise ConfigError(f"loader: labels ask for {name!r}, but the source has {has}")
    return Opened(loader, source, {name: open_loader(one) for name, one in loader.images.items()})


class Opened:
    """A loader with its source open, and the loaders of the images beside its clips."""

    def __init__(self, loader: Loader, source: Source, images: "Mapping[str, Opened] | None" = None) -> None:
        self.loader = loader
        self.source = source
        self.images = dict(images or {})

    def __len__(self) -> int:
        """Videos."""
        return len(self.source)

    @property
    def label_names(self) -> Mapping[str, tuple[str, ...]]:
        """By label that the batches carry, its classes' names in order, where they have names."""
        return {label: names for label, names in self.source.label_names.items() if label in self.loader.labels}

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in a pass over the videos (at least 1), as the official schedules count.

        Of a mixture with weights, a pass is its epoch.
        """
        return max(1, epoch_of(self.source).length // self.loader.global_batch)

    def memory(self, rows: Sequence[int]) -> "Budget":
        """The host memory that reading these rows of each step takes. Raises ConfigError: too much."""
        beside = [one.memory(rows_of(rows, images_of(self.loader, one.loader))).total for one in self.images.values()]
        return fitted(self.loader, rows, record=record_bytes(self.source), beside=sum(beside))

    def batches(
        self, *, rows: Sequence[int], seed: int, start: int = 0, skips: Sequence[tuple[int, int]] = ()
    ) -> Batches | ServedBatches | WithImages:
        """Batches without end.

        Args:
          rows: this host's rows of the global batch; its batches hold these, in this order.
          seed: of the order and of everything random.
          start: videos before the first batch; its position, where nothing is left out.
          skips: windows [first, last) of positions that are left out, in whole batches.
        """
        plan = {"seed": seed, "start": start, "stop": None, "shuffle": self.loader.shuffle, "skips": apart(skips)}
        if self.loader.service is None:
            return self._with_images(self._feed(rows, **plan), rows, seed, start, skips)
        return ServedBatches(self.loader, self.source, self._checked(rows), Plan(**plan))

    def once(self, *, rows: Sequence[int], seed: int = 0) -> Batches | WithImages:
        """Every video once, in the source's order, beside the images with which a training begins.

        The last batch is filled up with rows that are not `valid` (and black, index -1); a broken
        video's rows are not valid either, so that none counts twice.
        """
        return self._with_images(self._feed(rows, seed=seed, start=0, stop=len(self), shuffle=False), rows, seed)

    def _with_images(
        self, videos: Batches, rows: Sequence[int], seed: int, start: int = 0, skips: Sequence[tuple[int, int]] = ()
    ) -> Batches | WithImages:
        """Put the images of the same steps beside the videos, where the loader has any."""
        if not self.images:
            return videos
        found = {}
        for name, one in self.images.items():
            count = functools.partial(examples_of, videos=self.loader, images=one.loader)
            found[name] = one.batches(
                rows=rows_of(rows, images_of(self.loader, one.loader)),
                seed=seed_of(seed, name),
                start=count(start),
                skips=[(count(first), count(last)) for first, last in skips],
            )
        return WithImages(videos, found, self.images, first=len(self))

    def _feed(self, rows: Sequence[int], **plan: Any) -> Batches:
        afforded = self.memory(self._checked(rows))
        loader = dataclasses.replace(self.loader, prefetch=afforded.prefetch)
        return start_feed(loader, self.source, rows, Plan(**plan), workers=afforded.workers)

    def _checked(self, rows: Sequence[int]) -> Sequence[int]:
        limit = self.loader.clips_per_step
        if not rows or len(set(rows)) != len(rows) or min(rows) < 0 or max(rows) >= limit:
            raise ValueError(
                f"rows must be a non-empty list of distinct numbers from 0 to {limit - 1}, got {list(rows)[:8]}"
            )
        return rows


@dataclasses.dataclass(frozen=True)
class Budget:
    """What the input takes at most, in bytes, by part; and the limit it was fitted to.

    Attributes:
      beside: of the loaders of the images beside the clips.
    """

    workers: int
    prefetch: int
    decoders: int
    records: int
    clips: int
    batches: int
    limit: int
    beside: int = 0

    @property
    def total(self) -> int:
        return self.decoders + self.records + self.clips + self.batches + self.beside

    def describe(self) -> str:
        """One line for people."""
        records = f"records being read {self.records / GIB:.2f}, " if self.records else ""
        return (
            f"{self.total / GIB:.2f} GiB of {self.limit / GIB:.2f}: {self.workers} decoders "
            f"{self.decoders / GIB:.2f}, {records}clips being read {self.clips / GIB:.2f}, "
            f"{self.prefetch} + {ON_THE_WAY} batches {self.batches / GIB:.2f}"
            + (f", images beside them {self.beside / GIB:.2f}" if self.beside else "")
        )


def budget(loader: Loader, rows: Sequence[int], *, workers: int, record: int = 0, beside: int = 0) -> Budget:
    """What reading `rows` of each step takes with so many decoding processes, and records of so many bytes."""
    sizes = {name: spec.bytes for name, spec in loader.clip_specs().items()}
    clip = sum(sizes.values())
    whole = loader.sampler.frames * PICTURE * loader.channels
    read = clip if loader.crop else clip - sizes["video"] + whole
    own = -(-len(rows) // len({row // loader.clips_per_video for row in rows}))
    return Budget(
        workers=workers,
        prefetch=loader.prefetch,
        decoders=workers * PROCESS,
        records=(workers + 1) * COPIES * record,
        clips=(workers + 1) * own * read,
        batches=(loader.prefetch + ON_THE_WAY) * len(rows) * clip,
        limit=int(loader.memory * GIB) if loader.memory else available_memory() // 2,
        beside=beside,
    )


def fitted(loader: Loader, rows: Sequence[int], *, record: int = 0, beside: int = 0) -> Budget:
    """What the loader asks for, or less read ahead, then by fewer processes, until it is within the limit.

    Args:
      loader: which asks.
      rows: this host's rows of each step.
      record: `record_bytes` of its source.
      beside: bytes that the loaders of images beside its clips take.

    Raises:
      ConfigError: it is not, however little is read ahead.
    """
    workers = loader.workers or available_cores()
    found = budget(loader, rows, workers=workers, record=record, beside=beside)
    while found.total > found.limit:
        if loader.prefetch > 1:
            loader = dataclasses.replace(loader, prefetch=loader.prefetch - 1)
        elif workers > 1:
            workers -= 1
        else:
            raise ConfigError(
                f"loader: {len(rows)} clips a step on this host take {found.total / GIB:.2f} GiB of host memory, the "
                f"budget is {found.limit / GIB:.2f}: a larger memory=, a smaller global_batch, or more hosts"
            )
        found = budget(loader, rows, workers=workers, record=record, beside=beside)
    return found


def available_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's if that is less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = pathlib.Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            sizes.append(int(text))
    return min(sizes)
