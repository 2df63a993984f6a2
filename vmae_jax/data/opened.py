"""A loader with its source open: batches from any position."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from vmae_jax.data.budget import Budget, fitted, record_bytes
from vmae_jax.data.faults import check_missing
from vmae_jax.data.feed import Batches, Plan, start_feed
from vmae_jax.data.mixture import epoch_of
from vmae_jax.data.order import apart
from vmae_jax.data.pipeline import Loader
from vmae_jax.data.served import ServedBatches
from vmae_jax.data.source import Source
from vmae_jax.spec import ConfigError

__all__ = ["Opened", "OwnLoader", "open_loader"]


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
    return Opened(loader, source)


class Opened:
    """A loader with its source open."""

    def __init__(self, loader: Loader, source: Source) -> None:
        self.loader = loader
        self.source = source

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

    def memory(self, rows: Sequence[int]) -> Budget:
        """The host memory that reading these rows of each step takes. Raises ConfigError: too much."""
        return fitted(self.loader, rows, record=record_bytes(self.source))

    def batches(
        self, *, rows: Sequence[int], seed: int, start: int = 0, skips: Sequence[tuple[int, int]] = ()
    ) -> Batches | ServedBatches:
        """Batches without end.

        Args:
          rows: this host's rows of the global batch; its batches hold these, in this order.
          seed: of the order and of everything random.
          start: videos before the first batch; its position, where nothing is left out.
          skips: windows [first, last) of positions that are left out, in whole batches.
        """
        plan = {"seed": seed, "start": start, "stop": None, "shuffle": self.loader.shuffle, "skips": apart(skips)}
        if self.loader.service is None:
            return self._feed(rows, **plan)
        return ServedBatches(self.loader, self.source, self._checked(rows), Plan(**plan))

    def once(self, *, rows: Sequence[int], seed: int = 0) -> Batches:
        """Every video once, in the source's order.

        The last batch is filled up with rows that are not `valid` (and black, index -1); a broken
        video's rows are not valid either, so that none counts twice.
        """
        return self._feed(rows, seed=seed, start=0, stop=len(self), shuffle=False)

    def _feed(self, rows: Sequence[int], **plan: Any) -> Batches:
        return start_feed(self.loader, self.source, self._checked(rows), Plan(**plan))

    def _checked(self, rows: Sequence[int]) -> Sequence[int]:
        limit = self.loader.clips_per_step
        if not rows or len(set(rows)) != len(rows) or min(rows) < 0 or max(rows) >= limit:
            raise ValueError(
                f"rows must be a non-empty list of distinct numbers from 0 to {limit - 1}, got {list(rows)[:8]}"
            )
        return rows
