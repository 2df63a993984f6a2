"""Which videos go into which shard, and where everything is.

A shard holds the videos of a range of the names' digests: the same whatever the order of the list,
the number of workers or machines, and well mixed for those who read shard after shard.

    OUT/NAME-SPLIT.FORMAT-00000-of-00016      the records
    OUT/dataset_info.json, features.json, …   what TFDS reads, written at the end
    OUT/prepared/SPLIT.json                   what was done: options, counts, checksums, rejects
    OUT/.preparing/SPLIT/                     on the way: the plan, and a report of every finished shard
"""

import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Sequence

from etils import epath

from vmae_jax.spec import ConfigError

__all__ = ["Layout", "check_apart", "deal", "default_shards", "layout"]

_SHARD_BYTES = 128 << 20
_VIDEOS = 16  # of a shard, while there are few shards
_FEW = 16


@dataclasses.dataclass(frozen=True)
class Layout:
    """The places of a prepared split."""

    out: str
    name: str
    split: str
    file_format: str

    @property
    def work(self) -> epath.Path:
        return epath.Path(self.out) / ".preparing" / self.split

    @property
    def manifest(self) -> epath.Path:
        return epath.Path(self.out) / "prepared" / f"{self.split}.json"

    @property
    def template(self) -> str:
        """As TFDS fills it in."""
        return "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"

    def shard(self, number: int, shards: int) -> epath.Path:
        """The file of a shard."""
        return epath.Path(self.out) / f"{self.name}-{self.split}.{self.file_format}-{number:05d}-of-{shards:05d}"

    def report(self, number: int) -> epath.Path:
        """Written once the shard is in its place."""
        return self.work / f"shard-{number:05d}.json"


def layout(out: str, *, name: str, split: str, file_format: str) -> Layout:
    """The places of a split below `out`.

    Raises:
      ConfigError: a name that TFDS does not take, or that is no name of a file.
    """
    for what, text in (("--name", name), ("--split", split)):
        if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_]*", text):
            raise ConfigError(f"{what}={text}: letters, digits and _, beginning with a letter")
    remote = "://" in out
    return Layout(out if remote else os.path.abspath(os.path.expanduser(out)), name, split, file_format)


def check_apart(sources: Sequence[str], out: str) -> None:
    """Check that neither the records are written among the videos, nor the videos stand among the records.

    Raises:
      ConfigError: if `out` is one of the sources, inside one, or holds one.
    """
    target = _real(out)
    for given in sources:
        source = _real(given)
        if source == target or target.startswith(source + "/") or source.startswith(target + "/"):
            how = "is" if source == target else "is inside" if target.startswith(source + "/") else "holds"
            raise ConfigError(f"--out={out} {how} the source {given}: choose a folder beside the videos")


def _real(path: str) -> str:
    return path.rstrip("/") if "://" in path else os.path.realpath(os.path.expanduser(path)).rstrip("/")


def default_shards(sizes: Sequence[int]) -> int:
    """128 MiB of the sources' bytes a shard, but some shards also of small sets; never more than videos."""
    total = sum(size for size in sizes if size > 0)
    return max(1, min(len(sizes), max(-(-total // _SHARD_BYTES), min(_FEW, -(-len(sizes) // _VIDEOS)))))


def deal(keys: Sequence[str], shards: int) -> list[list[int]]:
    """The numbers of the videos of each shard; as many in each, give or take one."""
    order = sorted(range(len(keys)), key=lambda index: hashlib.sha256(keys[index].encode()).digest())
    bounds = [len(order) * shard // shards for shard in range(shards + 1)]
    return [order[first:last] for first, last in itertools.pairwise(bounds)]
