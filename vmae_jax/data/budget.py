"""The host memory that reading ahead takes: computed before it is taken, and kept to.

Every queue of the input has a length, and every place in it a size. Where their sum is above the
budget, less is read ahead and by fewer processes, which changes the speed and nothing else.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from vmae_jax.data.pipeline import Loader
from vmae_jax.data.source import Source
from vmae_jax.spec import ConfigError

__all__ = ["Budget", "available_memory", "budget", "fitted", "record_bytes"]

GIB = 1 << 30
PROCESS = 96 << 20  # a decoding process: 60 to 90 MiB were measured on 340x256
PICTURE = 640 * 480  # pixels of a frame that leaves the decoder uncropped, where its size is not known yet
COPIES = 7  # of a record on its way: read, parsed, taken out, sent; and received, joined, unpickled by the worker
ON_THE_WAY = 3  # batches beside those made ahead: being put together, waiting for the devices, going there


@dataclasses.dataclass(frozen=True)
class Budget:
    """What the input takes at most, in bytes, by part; and the limit it was fitted to."""

    workers: int
    prefetch: int
    decoders: int
    records: int
    clips: int
    batches: int
    limit: int

    @property
    def total(self) -> int:
        return self.decoders + self.records + self.clips + self.batches

    def describe(self) -> str:
        """One line for people."""
        records = f"records being read {self.records / GIB:.2f}, " if self.records else ""
        return (
            f"{self.total / GIB:.2f} GiB of {self.limit / GIB:.2f}: {self.workers} decoders "
            f"{self.decoders / GIB:.2f}, {records}clips being read {self.clips / GIB:.2f}, "
            f"{self.prefetch} + {ON_THE_WAY} batches {self.batches / GIB:.2f}"
        )


def budget(loader: Loader, rows: Sequence[int], *, workers: int, record: int = 0) -> Budget:
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
    )


def record_bytes(source: Source) -> int:
    """The mean size of the examples that pass through this process; 0 of files that only the decoders open."""
    return getattr(source, "record_bytes", 0)


def fitted(loader: Loader, rows: Sequence[int], *, record: int = 0) -> Budget:
    """What the loader asks for, or less read ahead, then by fewer processes, until it is within the limit.

    Args:
      loader: which asks.
      rows: this host's rows of each step.
      record: `record_bytes` of its source.

    Raises:
      ConfigError: it is not, however little is read ahead.
    """
    from vmae_jax.data.workers import available_cores  # a config that is only built does without

    workers = loader.workers or available_cores()
    found = budget(loader, rows, workers=workers, record=record)
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
        found = budget(loader, rows, workers=workers, record=record)
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
