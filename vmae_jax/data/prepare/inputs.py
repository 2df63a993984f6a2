"""What is to be prepared: the videos of a folder, a list, archives, a catalog or records, each with its name."""

import collections
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vmae_jax.data import sources
from vmae_jax.data.catalog import catalog_named, open_catalog
from vmae_jax.data.files import Files
from vmae_jax.data.prepare.record import FIELDS, LabelKind, label_kind
from vmae_jax.data.records import label_kinds, open_tfds
from vmae_jax.data.sides import Sided, check_found, sidecar
from vmae_jax.data.tars import TAR_SUFFIXES, open_tars
from vmae_jax.data.video import VIDEO_SUFFIXES, Encoded, Kind
from vmae_jax.spec import ConfigError

__all__ = ["Inputs", "Origin", "Part", "listed", "open_inputs"]


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the videos come from, as a command line names it.

    Attributes:
      paths: a folder, a list, tar files, video files, a prepared TFDS dataset, or `tfds:NAME`.
      labels: "none" (default) or "folders", of folders and archives.
      names: a text file with the classes' names.
      root: what a list's paths are relative to.
      columns: the columns of a list by name.
      pictures: the names of a list's pictures.
      source_split: of a TFDS dataset or a catalog (default "train").
      dataset: a catalog and its arguments, whose owners' files are in the one path (see `catalog.catalog_named`).
      sides: what is beside each video and stored with it, by name: the end of its file's name in place of the video's
        suffix (see `data.sides.sidecar`).
    """

    paths: tuple[str, ...]
    labels: str | None = None
    names: str | None = None
    root: str | None = None
    columns: str | None = None
    pictures: str | None = None
    source_split: str | None = None
    dataset: str | None = None
    sides: tuple[tuple[str, str], ...] = ()

    def check_used(self, what: str, *used: str) -> None:
        """Check that no option was given which this kind of source has no use for.

        Raises:
          ConfigError: if one was; `used` are those that it has a use for.
        """
        fields = ("labels", "names", "root", "columns", "pictures", "source_split")
        unused = [name for name in fields if name not in used and getattr(self, name) is not None]
        if unused:
            takes = " and ".join(_option(name) for name in used) or "none of these options"
            raise ConfigError(f"{_option(unused[0])}={getattr(self, unused[0])}: {what} takes {takes}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class Part(Protocol):
    """Some of the videos; goes to the process that prepares them."""

    def __len__(self) -> int: ...
    def fetch(self, index: int) -> Encoded: ...


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The videos, in the order of the source.

    Attributes:
      keys: their names, all different.
      named: whether these are stored; otherwise the records of the source have names of their own.
      sizes: bytes of each; -1 where that is not known.
      kinds: the labels that they have.
      label_names: of the classes, by label.
      refused: (name, kind, reason) of what is not even tried (see `BadVideo`).
      source: its `subset` gives a `Part`.
      sides: what is beside them, by name.
    """

    keys: Sequence[str]
    named: bool
    sizes: Sequence[int]
    kinds: Mapping[str, LabelKind]
    label_names: Mapping[str, tuple[str, ...]]
    refused: Sequence[tuple[str, Kind, str]]
    source: Any
    sides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def part(self, indices: Sequence[int]) -> Part:
        """Some of the videos, with what is beside them."""
        part = self.source.subset(indices)
        return Sided(part, self.sides) if self.sides else part

    def without(self, label: str) -> "Inputs":
        """The same videos, one label or side of which is not stored as such."""
        return dataclasses.replace(self, kinds={name: kind for name, kind in self.kinds.items() if name != label})

    def beside(self, sides: Mapping[str, Any]) -> "Inputs":
        """The same videos with something beside them.

        Raises:
          ConfigError: if a label, or a field of records, has the name already.
        """
        taken = next((name for name in sides if name in (*self.kinds, *FIELDS)), None)
        if taken is not None:
            raise ConfigError(f"--beside={taken}=…: records already have a label or a field of that name")
        return dataclasses.replace(self, sides=sides, kinds={**self.kinds, **dict.fromkeys(sides, "side")})

    @functools.cached_property
    def digest(self) -> str:
        """Of the names and sizes: another set of videos has another."""
        text = json.dumps([list(self.keys), list(self.sizes), self.label_names, self.kinds], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def open_inputs(origin: Origin, *, scratch: str) -> Inputs:
    """Lists the videos, with what is beside them.

    Args and errors are those of `_videos`.
    """
    found = _videos(origin, scratch=scratch)
    if not origin.sides:
        return found
    sides = {name: sidecar(suffix) for name, suffix in origin.sides}
    with_sides = found.beside(sides)
    for name, suffix in origin.sides:
        check_found(found.source, sides[name], f"--beside={name}={suffix}")
    return with_sides


def _videos(origin: Origin, *, scratch: str) -> Inputs:
    """Lists the videos.

    Args:
      origin: where they are.
      scratch: a folder for decompressed archives.

    Raises:
      ConfigError: they are not there, or nothing is.
    """
    paths, split = origin.paths, origin.source_split or "train"
    if origin.dataset is not None:
        origin.check_used("--dataset", "source_split")
        if len(paths) != 1:
            raise ConfigError(f"--dataset={origin.dataset} reads one folder, not {len(paths)} paths")
        rows, absent = open_catalog(catalog_named(origin.dataset, paths[0]), split)
        return listed(rows, [(key, "missing", reason) for key, reason in absent])
    if len(paths) == 1 and paths[0].startswith("tfds:"):
        origin.check_used("a TFDS dataset", "source_split")
        return _records(sources.tfds(name=paths[0].removeprefix("tfds:"), split=split))
    if len(paths) == 1 and os.path.exists(os.path.join(os.path.expanduser(paths[0]), "dataset_info.json")):
        origin.check_used("a prepared folder, which has its labels itself,", "source_split")
        return _records(sources.tfds(directory=paths[0], split=split))
    if all(path.lower().endswith(TAR_SUFFIXES) for path in paths):
        origin.check_used("an archive", "labels")
        local = [os.path.abspath(os.path.expanduser(path)) for path in paths]
        tar, refused = open_tars(local, scratch=scratch, labels=origin.labels or "none")
        return listed(tar, [(member.key, "broken", member.refused) for member in refused])
    files = _files(origin)
    return listed(files, files.refused)


def _files(origin: Origin) -> Any:
    path = origin.paths[0]
    if len(origin.paths) > 1 or path.lower().endswith(VIDEO_SUFFIXES):
        origin.check_used("a source of several paths, or of one video,")
        found = sources.paths(origin.paths).open()
    elif os.path.isfile(os.path.expanduser(path)):
        origin.check_used("a list", "names", "root", "columns", "pictures")
        names = {"label": origin.names} if origin.names else None
        pictures = {"pictures": origin.pictures} if origin.pictures else {}
        found = sources.csv(path, origin.root or "", origin.columns, names=names, **pictures).open()
    else:
        origin.check_used("a folder", "labels", "names")
        if origin.names and origin.labels != "folders":
            raise ConfigError(f"--names={origin.names}: a folder has classes with --labels=folders alone")
        found = sources.folder(path, labels=origin.labels or "none", names=origin.names).open()
    assert isinstance(found, Files)
    return found


def listed(source: Any, refused: Sequence[tuple[str, Kind, str]] = ()) -> Inputs:
    """Return the videos of a source whose names, sizes and labels are known without reading a video."""
    count = len(source)
    kinds = source.kinds if hasattr(source, "kinds") else _kinds(source)
    return Inputs(
        keys=_different([source.key(index) for index in range(count)]),
        named=True,
        sizes=[source.size(index) for index in range(count)],
        kinds=kinds,
        label_names={name: names for name, names in source.label_names.items() if name in kinds},
        refused=refused,
        source=source,
    )


def _kinds(source: Any) -> dict[str, LabelKind]:
    """The labels that the videos of a source have, and how records store each."""
    values: dict[str, list[Any]] = collections.defaultdict(list)
    for index in range(len(source)):
        for name, value in source.labels(index).items():
            values[name].append(value)
    return {name: kind for name, given in values.items() if (kind := label_kind(name, given))}


def _different(keys: Sequence[str]) -> list[str]:
    """A name that comes again gets a number that makes it another: a list may name a video twice."""
    counts: collections.Counter[str] = collections.Counter()
    taken = set(keys)
    result = []
    for key in keys:
        counts[key] += 1
        name = key
        while counts[key] > 1 and (name := f"{key}~{counts[key]}") in taken:
            counts[key] += 1
        taken.add(name)
        result.append(name)
    return result


def _records(opener: sources.Tfds) -> Inputs:
    records = open_tfds(opener)
    count = len(records)
    if not count:
        raise ConfigError(f"data source: {opener.directory or opener.name} has no example in {opener.split!r}")
    kinds = label_kinds(opener)
    return Inputs(
        keys=[f"{opener.split}-{index:09d}" for index in range(count)],
        named=False,
        sizes=[-1] * count,
        kinds=kinds,
        label_names={name: names for name, names in records.label_names.items() if name in kinds},
        refused=[],
        source=_Records(opener, range(count)),
    )


@dataclasses.dataclass(frozen=True)
class _Records:
    """Some records of a TFDS dataset, which is opened where they are read."""

    opener: sources.Tfds
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, indices: Sequence[int]) -> "_Records":
        return _Records(self.opener, [self.indices[index] for index in indices])

    def fetch(self, index: int) -> Encoded:
        return _opened(self.opener).fetch(self.indices[index])


@functools.cache
def _opened(opener: sources.Tfds) -> Any:
    return opener.open()
