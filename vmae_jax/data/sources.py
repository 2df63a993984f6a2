"""Where videos come from. A config names one of these; nothing is touched until it is opened.

`folder`, `csv`, `catalog` and `tfds` give openers: frozen values that touch no disk and import no
TensorFlow, so that a config can be built on any machine. `open()` does the work, and reports in one
line what is wrong. It returns a `Source`, which has random access by number.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vmae_jax.data.catalog import Catalog, open_catalog
from vmae_jax.data.source import Source, Stored, drawn_clips, drawn_states
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError, call

__all__ = [
    "Cataloged",
    "CsvList",
    "Folder",
    "Paths",
    "Tfds",
    "catalog",
    "csv",
    "embeddings",
    "folder",
    "folder_or",
    "images",
    "paths",
    "tfds",
]


PARTS = ("all", "train", "held_out")
_TFDS_NAME = re.compile(r"[A-Za-z]\w*(/[\w.+-]+)?(:\d+\.\d+\.\d+)?", re.ASCII)


@register("source", smoke=lambda given: call("data.sources.folder_or", otherwise=drawn_clips(), **given))
def folder(
    path: str, labels: str = "none", part: str = "all", share: float = 0.1, names: str | None = None
) -> "Folder":
    """Every video file under `path`, in the order of their names; or the records of a prepared folder.

    Args:
      path: a folder, local or gs://; its subfolders are read too. One that `vmae data prepare` made
        gives its records, with the labels they have; its split "validation", if any, is what is held out.
      labels: "none", or "folders": the first folder below `path` names the class.
      part: "all", or one side of a split that depends on the files' names alone: "held_out" is
        `share` of the videos (at least one), "train" the rest.
      share: of the videos that are held out.
      names: a text file with the classes' names, one a line, in the order of their numbers; by
        default the folders' names, sorted. Two folders with the same classes need none.
    """
    if labels not in ("none", "folders"):
        raise ConfigError(f"labels={labels!r}: it is 'none' or 'folders'")
    if part not in PARTS or not 0 < share < 1:
        raise ConfigError(f"part={part!r}, share={share}: a part is one of {', '.join(PARTS)}, a share between 0 and 1")
    return Folder(path, labels, part, share, names)


@register(
    "source",
    smoke=lambda given: call("data.sources.folder_or", otherwise=drawn_clips(), pictures=True, **given),
)
def images(
    path: str, labels: str = "none", part: str = "all", share: float = 0.1, names: str | None = None
) -> "Folder":
    """Every picture under `path` (or prepared records) as a video of one frame.

    It is for samplers of one frame, such as clips.dense(frames=1).
    Lists (`csv`) may name pictures as well as videos, and `tfds` reads datasets of images with video="image".

    Args:
      path, labels, part, share, names: as in `folder`.
    """
    return dataclasses.replace(folder(path, labels, part, share, names), pictures=True)


@register(
    "source",
    smoke=lambda given: call("data.sources.folder_or", otherwise=drawn_states(), features=True, **given),
)
def embeddings(
    path: str, labels: str = "none", part: str = "all", share: float = 0.1, names: str | None = None
) -> "Folder":
    """Every file of features under `path` (.npz of `vmae features`), without the videos that it was made of.

    The stream `data.streams.embeddings` reads them. An example has one black picture, so the sampler is one of a single
    frame, clips.dense(frames=1).

    Args:
      path, labels, part, share, names: as in `folder`.
    """
    return dataclasses.replace(folder(path, labels, part, share, names), features=True)


@register("source", otherwise="source", smoke=lambda given: {"otherwise": drawn_clips()})
def folder_or(
    otherwise: Any,
    path: str | None = None,
    labels: str = "none",
    part: str = "all",
    share: float = 0.1,
    names: str | None = None,
    pictures: bool = False,
    features: bool = False,
) -> Any:
    """The videos of a folder where one is named, else another source.

    Args:
      otherwise: the source that is used while `path` is None.
      path, labels, part, share, names: as in `folder`.
      pictures: the folder is one of pictures, as for `images`.
      features: the folder is one of features, as for `embeddings`.
    """
    if path is None:
        return otherwise
    return (embeddings if features else images if pictures else folder)(path, labels, part, share, names)


@register("source", smoke=drawn_clips)
def paths(paths: Sequence[str], pictures: bool = False) -> "Paths":
    """Videos by name: files, and folders whose videos are all taken.

    Args:
      paths: files or folders, local or gs://.
      pictures: take all pictures of the folders, each a video of one frame, and not their videos.
    """
    if not paths or isinstance(paths, str):
        raise ConfigError("a source of paths needs a list of at least one file or folder")
    return Paths(tuple(paths), pictures)


@register("source", smoke=drawn_clips)
def csv(
    path: str,
    root: str = "",
    columns: str | None = None,
    pictures: str = "img_{:05}.jpg",
    names: Mapping[str, str | None] | None = None,
) -> "CsvList":
    """A list of videos in the official formats, one a line, separated by spaces or commas.

    `path`, `path label`, `path 0 -1` (a video), `path start count` (a folder of pictures) and
    `path start count label`. Which one it is, is seen from the number of fields; a first line of
    column names is skipped. Paths may hold spaces. A label is a class number or a name; several
    classes or numbers stand between semicolons (`a.mp4,run;jump`, `b.mp4 0.5;1.25`), `-` is none.

    Args:
      path: the list, local or gs://.
      root: what relative paths are relative to; by default the folder of the list.
      columns: the columns by name where their number does not determine them, such as
        "path count label" (the official lists for fine-tuning on pictures), or that are labels of
        other names, such as "path,verb,noun".
      pictures: the names of pictures by their number (the official default).
      names: label -> a text file with its classes' names, one a line, in the order of their
        numbers. By default the names in the list, sorted: a test list that lacks a class would
        number the others differently, so name them where the lists are not of the same classes.
    """
    listed = tuple((label, file) for label, file in (names or {}).items() if file is not None)
    return CsvList(path, root, columns, pictures, listed)


@register("source", catalog="catalog", smoke=drawn_clips)
def catalog(catalog: Any, split: str = "train", label: str = "label") -> "Cataloged":
    """A split of a dataset of `data.catalogs`, from its owners' files.

    Args:
      catalog: such as call("data.catalogs.kinetics.read", directory="k400", version="400").
      split: its name.
      label: the field that is the batch's "label"; every other field is a label of its own name, such as "labels",
        "verb" or "noun".
    """
    return Cataloged(catalog, split, label)


@register("source", smoke=drawn_clips)
def tfds(
    name: str | None = None,
    directory: str | None = None,
    split: str = "train",
    data_dir: str | None = None,
    video: str = "video",
    label: str = "label",
    key: str = "key",
) -> "Tfds":
    """Records: a folder that `vmae data prepare` or TFDS made, or a dataset that TFDS has prepared under its name.

    Args:
      name: instead of `directory`, a dataset of TFDS as "name", "name/config" or "name/config:1.0.0". Namespaces
        ("huggingface:…") are refused, because TFDS runs code that it downloads.
      directory: a folder that holds a prepared dataset.
      split: a split as TFDS writes it, such as "train" or "train[:10%]".
      data_dir: where datasets named by `name` are; by default the folder of TFDS.
      video: the feature that holds the video: its encoded bytes, `tfds.features.Video`, or an image (a video of one
        frame).
      label: the feature that is the batch's "label"; every other feature of numbers is a label
        of its own name, such as "labels", "verb" or "noun".
      key: the feature that names the example, where there is one.
    """
    if (name is None) == (directory is None):
        raise ConfigError("a TFDS source takes either name= or directory=")
    if name is not None and not _TFDS_NAME.fullmatch(name):
        raise ConfigError(
            f"name={name!r}: a dataset of TFDS is given as name, name/config or name/config:1.0.0, without a namespace"
        )
    if directory is not None and data_dir is not None:
        raise ConfigError(f"data_dir={data_dir!r} belongs to name=; directory= is the whole path")
    return Tfds(name, directory, split, data_dir, (video, label, key))


@dataclasses.dataclass(frozen=True)
class Folder:
    """See `folder`."""

    path: str
    labels: str
    part: str
    share: float
    names: str | None
    pictures: bool = False
    features: bool = False

    def open(self) -> Source:
        """Lists the folder, or opens its records. Raises ConfigError: no such folder, or no video in it."""
        from vmae_jax.data.files import open_folder
        from vmae_jax.data.records import is_prepared, open_prepared

        if is_prepared(self.path):
            return open_prepared(self.path, part=self.part, share=self.share, names=self.names)
        return open_folder(**vars(self))


@dataclasses.dataclass(frozen=True)
class Paths:
    """See `paths`."""

    paths: tuple[str, ...]
    pictures: bool = False

    def open(self) -> Source:
        """Finds the files. Raises ConfigError: one that is not there."""
        from vmae_jax.data.files import open_paths

        return open_paths(self.paths, pictures=self.pictures)


@dataclasses.dataclass(frozen=True)
class CsvList:
    """See `csv`."""

    path: str
    root: str
    columns: str | None
    pictures: str
    names: tuple[tuple[str, str], ...]

    def open(self) -> Source:
        """Reads the list. Raises ConfigError with the number of the line that is wrong."""
        from vmae_jax.data.lists import open_csv

        return open_csv(self.path, root=self.root, columns=self.columns, pictures=self.pictures, names=dict(self.names))


@dataclasses.dataclass(frozen=True)
class Cataloged:
    """See `catalog`."""

    catalog: Catalog
    split: str
    label: str

    def open(self) -> Source:
        """Reads the annotations. Raises ConfigError: a missing or malformed file, no such split, no video."""
        return open_catalog(self.catalog, self.split, label=self.label)[0]


@dataclasses.dataclass(frozen=True)
class Tfds(Stored):
    """See `tfds`."""

    def open(self) -> Source:
        """Opens the records. Raises ConfigError: they are not there."""
        from vmae_jax.data.records import open_tfds

        return open_tfds(self)
