"""Archives of videos, read in place: nothing of a tar file is unpacked, and nothing in it is believed.

A member counts when it is a plain file with a video's suffix and a name that stays inside. Links,
devices, sparse files and names that lead out are refused, one by one and with the reason.
"""

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vmae_jax.data.video import VIDEO_SUFFIXES, Encoded
from vmae_jax.names import as_text
from vmae_jax.spec import ConfigError

__all__ = ["TAR_SUFFIXES", "Member", "Tar", "open_tars"]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".txz")
_COMPRESSED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open))
_BLOCK = 16 << 20
_ROOM = 1 << 30  # bytes of a disk that are left free


class Member(NamedTuple):
    """A video in an archive, or a member that is refused and why."""

    key: str
    path: str
    start: int
    size: int
    labels: Mapping[str, Any] = {}
    refused: str = ""


class Tar:
    """A source of the videos in tar files (see `source.Source`)."""

    def __init__(self, members: Sequence[Member], label_names: Mapping[str, tuple[str, ...]]) -> None:
        self.label_names = label_names
        self._members = members

    def __len__(self) -> int:
        return len(self._members)

    def fetch(self, index: int) -> Encoded:
        """The example: a span of the archive."""
        member = self._members[index]
        return Encoded(path=member.path, span=(member.start, member.size), labels=member.labels, key=member.key)

    def key(self, index: int) -> str:
        """The name of an example."""
        return self._members[index].key

    def labels(self, index: int) -> Mapping[str, Any]:
        """The labels of an example."""
        return self._members[index].labels

    def size(self, index: int) -> int:
        """The bytes of an example."""
        return self._members[index].size

    def files(self) -> list[str]:
        """The archives."""
        return list(dict.fromkeys(member.path for member in self._members))

    def subset(self, indices: Sequence[int]) -> "Tar":
        """Some of the videos, as a source of their own."""
        return Tar([self._members[index] for index in indices], self.label_names)


def open_tars(paths: Sequence[str], *, scratch: str, labels: str = "none") -> tuple[Tar, list[Member]]:
    """The videos of one or more archives, and the members that are refused.

    Args:
      paths: local tar files. Compressed ones, which have no random access, are first written out
        as plain tar files in `scratch`.
      scratch: a folder for those; who calls removes it.
      labels: "none", or "folders": the first folder of a member's name is its class.

    Raises:
      ConfigError: no such archive, none that can be read, no video in it, no room for a plain copy.
    """
    found: list[Member] = []
    for number, path in enumerate(paths):
        prefix = f"{as_text(os.path.basename(path))}/" if len(paths) > 1 else ""
        found += _members(_plain(path, os.path.join(scratch, f"archive-{number}.tar")), path, prefix)
    videos = [member for member in found if not member.refused]
    if not videos:
        raise ConfigError(f"data source: no video in {', '.join(paths)} (looked for {' '.join(VIDEO_SUFFIXES)})")
    if labels == "none":
        return Tar(videos, {}), [member for member in found if member.refused]
    classes = [member.key.removeprefix(_prefix(member, paths)).split("/") for member in videos]
    if any(len(parts) < 2 for parts in classes):
        first = next(member for member, parts in zip(videos, classes, strict=True) if len(parts) < 2)
        raise ConfigError(f"data source: labels='folders' needs every video in a folder; {first.key!r} is in none")
    names = tuple(sorted({parts[0] for parts in classes}))
    labelled = [
        member._replace(labels={"label": names.index(parts[0])}) for member, parts in zip(videos, classes, strict=True)
    ]
    return Tar(labelled, {"label": names}), [member for member in found if member.refused]


def _prefix(member: Member, paths: Sequence[str]) -> str:
    return member.key.split("/")[0] + "/" if len(paths) > 1 else ""


def _members(path: str, given: str, prefix: str) -> Iterator[Member]:
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                name = info.name.removeprefix("./")
                if info.isdir() or (info.isreg() and not name.lower().endswith(VIDEO_SUFFIXES)):
                    continue
                yield Member(prefix + as_text(name), path, info.offset_data, info.size, refused=_refusal(info, name))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ConfigError(f"data source: {given!r} cannot be read as a tar archive: {error}") from error


def _refusal(info: tarfile.TarInfo, name: str) -> str:
    if info.issym() or info.islnk():
        return "is a link in the archive"
    if not info.isreg() or info.issparse():
        return "is no plain file in the archive"
    if os.path.isabs(name) or os.pardir in name.split("/"):
        return "has a name that leads out of the archive"
    return ""


def _plain(path: str, copy: str) -> str:
    """The archive itself, or its decompressed copy, written once."""
    try:
        with open(path, "rb") as file:
            start = file.read(6)
    except OSError as error:
        raise ConfigError(f"data source: the archive {path!r} cannot be read: {error.strerror or error}") from error
    opener = next((opener for magic, opener in _COMPRESSED if start.startswith(magic)), None)
    if opener is None:
        return path
    if not os.path.exists(copy):
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        try:
            with opener(path, "rb") as packed, open(copy + ".part", "wb") as out:
                while block := packed.read(_BLOCK):
                    if shutil.disk_usage(out.name).free < _ROOM + len(block):
                        raise ConfigError(f"data source: no room to decompress {path!r} into {os.path.dirname(copy)!r}")
                    out.write(block)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise ConfigError(f"data source: {path!r} cannot be decompressed: {error}") from error
        os.replace(copy + ".part", copy)
    return copy
