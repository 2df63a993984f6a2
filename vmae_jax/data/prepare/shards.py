"""Which videos go into which shard, where everything is, and what is written beside the records.

A shard holds the videos of a range of the names' digests: the same whatever the order of the list,
the number of workers or machines, and well mixed for those who read shard after shard.

    OUT/NAME-SPLIT.FORMAT-00000-of-00016      the records
    OUT/dataset_info.json, features.json, …   what TFDS reads, written at the end, so that any process opens them
    OUT/prepared/SPLIT.json                   what was done: options, counts, checksums, rejects
    OUT/.preparing/SPLIT/                     on the way: the plan, and a report of every finished shard
"""

import dataclasses
import hashlib
import itertools
import os
import re
import uuid
from collections.abc import Sequence
from typing import Any

from etils import epath

from vmae_jax.data.prepare.inputs import Inputs
from vmae_jax.data.prepare.record import Options, features, options
from vmae_jax.data.prepared_files import bounded_json
from vmae_jax.names import json_text
from vmae_jax.spec import ConfigError

__all__ = [
    "Layout",
    "check_alike",
    "check_apart",
    "deal",
    "default_shards",
    "layout",
    "manifests",
    "write_metadata",
    "write_whole",
]

_SHARD_BYTES = 128 << 20
_VIDEOS = 16  # of a shard, while there are few shards
_FEW = 16
_MANIFEST = {
    "name": str, "split": str, "identity": dict, "examples": int, "frames": int, "bytes": int, "videos": int,
    "seconds": int | float, "labels": dict, "label_names": dict, "rejected": list, "notes": list, "shards": list,
}  # fmt: skip
_DESCRIPTION = """\
Videos prepared by vmae_jax (`vmae data prepare`); codec {codec}.
"video" is the encoded clip, "times_us" has the time at which each of its "num_frames" frames is shown, in
microseconds from the first; "start_us" where the clip begins in the video that it was cut from."""


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


def manifests(out: str) -> dict[str, dict[str, Any]]:
    """Return what was prepared into a folder, by split; {} of a folder that was prepared otherwise.

    Raises:
      ConfigError: if a file there is not what `vmae data prepare` writes.
    """
    folder = epath.Path(out) / "prepared"
    files = sorted(folder.glob("*.json")) if folder.exists() else []
    return {file.stem: _manifest(file) for file in files}


def _manifest(file: epath.Path) -> dict[str, Any]:
    try:
        manifest = bounded_json(file)
        wrong = [name for name, kind in _MANIFEST.items() if not isinstance(manifest[name], kind)]
        wrong += [name for name in ("options", "source") if name not in manifest["identity"]]
        if not isinstance(manifest["identity"]["options"], dict) or wrong:
            raise ValueError(f"{', '.join(wrong) or 'options'} is missing or malformed")
        _options(manifest["identity"]["options"])
        return manifest
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise ConfigError(
            f"{file} is not what vmae data prepare writes ({error}); remove it or prepare again"
        ) from error


def check_alike(layout: Layout, chosen: Options, inputs: Inputs) -> None:
    """All splits of a dataset have the same features.

    Raises:
      ConfigError: a split that is there already has others.
    """
    now = _signature(layout.name, chosen.asdict(), inputs.kinds, inputs.label_names)
    for split, manifest in manifests(layout.out).items():
        before = _signature(
            manifest["name"], manifest["identity"]["options"], manifest["labels"], manifest["label_names"]
        )
        other = [name for name in now if now[name] != before[name]]
        if other:
            raise ConfigError(
                f"--out={layout.out} has a split {split!r} with another {' and '.join(other)}; the splits of a dataset "
                "have the same (classes: give both the same --names)"
            )


def write_metadata(layout: Layout, manifest: dict[str, Any]) -> None:
    """Writes the manifest of a split that is whole, and the metadata of all splits."""
    from vmae_jax.data.records import calm
    from vmae_jax.data.tf import tensorflow_datasets

    tfds = tensorflow_datasets()
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(layout.out), dataset_name=layout.name, filetype_suffix=layout.file_format
    )
    every = {**manifests(layout.out), layout.split: manifest}
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard["examples"] for shard in made["shards"]],
            num_bytes=made["bytes"],
            filename_template=template.replace(split=split),
        )
        for split, made in every.items()
    ]
    chosen = _options(manifest["identity"]["options"])
    with calm():
        tfds.folder_dataset.write_metadata(
            data_dir=layout.out,
            features=features(chosen, manifest["labels"], manifest["label_names"]),
            split_infos=splits,
            filename_template=template,
            check_data=False,
            description=_DESCRIPTION.format(codec=chosen.codec),
        )
    layout.manifest.parent.mkdir(parents=True, exist_ok=True)
    write_whole(layout.manifest, manifest)


def write_whole(path: epath.Path, value: Any) -> None:
    """Writes JSON; the file is whole or not there."""
    text = json_text(value, indent=1) + "\n"
    if "://" in str(path):
        path.write_text(text)
        return
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    part.write_text(text)
    part.replace(path)


def _options(stored: dict[str, Any]) -> Options:
    keep, gop = stored["codec"] == "keep", stored["gop"] if stored["codec"] == "h264" else None
    sound = True if keep else stored["sound"]
    return options(**{**stored, "quality": None if keep else stored["quality"], "gop": gop, "sound": sound})


def _signature(name: str, chosen: dict[str, Any], kinds: Any, label_names: Any) -> dict[str, Any]:
    return {
        "name": name,
        "format": chosen["file_format"],
        "kind of codec": chosen["codec"] == "jpeg",
        "sound": chosen["sound"] and chosen["codec"] != "keep",
        "kind of labels": dict(kinds),
        "list of classes": {label: list(names) for label, names in label_names.items()},
    }
