"""Kinetics-400, 600, 700 and their union, 710, from the owners' annotations and videos.

    call("data.sources.catalog", catalog=call("data.catalogs.kinetics.read", directory="k400", version="400"))

A directory of one version holds `train.csv`, `validate.csv` (or `val.csv`) and, where it was handed
out, `test.csv`, in itself or in `annotations/`: columns `label` (test sets may have none),
`youtube_id`, `time_start`, `time_end`. The videos are anywhere below it under their usual names,
`{youtube_id}_{time_start:06d}_{time_end:06d}.mp4` (or just the id; any container that is read).

For 710 the directory holds those of the three, `k400`, `k600` and `k700` (or `k700-2020`,
`kinetics400`, …; links will do).
"""

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from vmae_jax.data.catalog import catalog
from vmae_jax.data.listing import Listing, Manual, Split, Videos, class_numbers

__all__ = ["RENAMES", "read"]

LAYOUT = "train.csv and validate.csv, in it or in annotations/, and the videos"
ANNOTATIONS = {"train": ("train",), "validation": ("validate", "val", "validation"), "test": ("test",)}
ORDER = ("700", "600", "400")  # whose name and row of a video 710 takes
# Classes of older versions that the newest has under another name: the rule by which the official
# code of VideoMAE V2 and UniFormerV2 merges them.
RENAMES = {
    "changing wheel": "changing wheel (not on bike)",
    "garbage collecting": "person collecting garbage",
    "balloon blowing": "inflating balloons",
    "tying tie": "tying necktie",
    "making bed": "making the bed",
    "opening bottle": "opening bottle (not wine)",
    "hugging": "hugging (not baby)",
    "dying hair": "dyeing hair",
    "throwing ball": "throwing ball (not baseball or American football)",
    "cooking sausages": "cooking sausages (not on barbeque)",
    "passing american football (not in game)": "passing American football (not in game)",
    "picking fruit": "picking apples",
    "skiing (not slalom or crosscountry)": "skiing mono",
    "drinking": "sipping cup",
    "sniffing": "smelling feet",
}


@catalog(version=("400", "600", "700", "710"))
def read(directory: str, version: str = "400", only: str | None = None) -> Listing:
    """Read a version of Kinetics.

    Args:
      directory: the folder with the owners' files.
      version: 400, 600, 700 (its release of 2020 as well), or 710, the union of the three: the
        classes of 700 and those that only the others have, older names renamed; each video once,
        by its YouTube id; whatever any of them validates on is taken out of the training set.
      only: a file with the names of classes, one a line, in the order of their numbers: all that is read. So a part
        such as Kinetics-Sounds is read, whose list of classes was published in papers alone.
    """
    listing = _union(directory) if version == "710" else _single(directory, version)
    return listing if only is None else _part(Manual(f"kinetics {version}", directory, layout=LAYOUT), listing, only)


def _part(manual: Manual, listing: Listing, file: str) -> Listing:
    """Return what a listing has of the classes that a file names."""
    names = tuple(manual.lines(os.path.expanduser(file)))
    known, chosen = class_numbers(listing.names["label"]), class_numbers(names)
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(chosen) < len(names):
        what = f"the class {unknown[0]!r}, which is not in the annotations" if unknown else "no classes, or one twice"
        raise manual.error(f"{file} has {what}")
    number = {known[name]: place for name, place in chosen.items()}
    splits = {split: Split() for split in listing.splits}
    for split, rows in splits.items():
        for row in listing.splits[split].rows:
            if row.labels["label"] in number:
                rows.add(row.key, row.video, labels={"label": number[row.labels["label"]]})
    return Listing({"label": names}, {split: rows for split, rows in splits.items() if rows.rows})


class _Clip(NamedTuple):
    """A line of the annotations."""

    youtube_id: str
    key: str
    label: str | None
    path: str | None


def _single(directory: str, version: str) -> Listing:
    manual = Manual(f"kinetics {version}", directory, layout=LAYOUT)
    videos = manual.videos()
    clips = {split: list(_clips(manual, videos, split)) for split in ANNOTATIONS}
    names = _names(clips)
    number = class_numbers(names)
    splits = {split: Split() for split, found in clips.items() if found}
    for split in splits:
        for clip in clips[split]:
            label = -1 if clip.label is None else _number(manual, number, clip.label, split)
            splits[split].add(clip.key, clip.path, labels={"label": label})
    return Listing({"label": names}, splits)


def _union(directory: str) -> Listing:
    """Kinetics-710: trained on what any version trains on and none validates on."""
    manual = Manual("kinetics 710", directory, layout="the folders k400, k600 and k700, each as of its version")
    parts: dict[str, dict[str, list[_Clip]]] = {}
    for one in ORDER:
        folder = manual.need(f"k{one}", f"k{one}-2020", f"kinetics{one}", f"kinetics{one}_2020", f"kinetics-{one}")
        part = Manual("kinetics 710", folder, layout=LAYOUT)
        videos = part.videos()
        parts[one] = {split: list(_clips(part, videos, split)) for split in ("train", "validation")}
    names = _union_names(parts)
    number = class_numbers(names)
    known = {name: number[RENAMES.get(name, name)] for part in parts.values() for name in _names(part)}
    splits = {"train": Split(), "validation": Split()}
    taken: set[str] = set()
    for split in ("validation", "train"):  # what is validated on is taken first
        for clip in _first_of_each(parts, split):
            if clip.youtube_id not in taken and clip.label is not None:
                splits[split].add(clip.key, clip.path, labels={"label": known[clip.label]})
        taken |= {clip.youtube_id for part in parts.values() for clip in part[split]}
    return Listing({"label": names}, splits)


def _union_names(parts: Mapping[str, Mapping[str, list[_Clip]]]) -> tuple[str, ...]:
    """The newest version's names, then those that only older ones have; sorted each."""
    newest = _names(parts["700"])
    older = {RENAMES.get(name, name) for one in ("600", "400") for name in _names(parts[one])}
    return newest + tuple(sorted(older - set(newest)))


def _first_of_each(parts: Mapping[str, Mapping[str, list[_Clip]]], split: str) -> Iterator[_Clip]:
    """One clip a YouTube id: of the newest version that has it, one that is there before one that is not."""
    chosen: dict[str, _Clip] = {}
    for one in ORDER:
        for clip in parts[one][split]:
            before = chosen.get(clip.youtube_id)
            if before is None or (before.path is None and clip.path is not None):
                chosen[clip.youtube_id] = clip
    return iter(chosen.values())


def _clips(manual: Manual, videos: Videos, split: str) -> Iterator[_Clip]:
    files = manual.annotations(*(f"{name}.csv" for name in ANNOTATIONS[split]))
    path = manual.find(*files)
    if path is None:
        if split == "test":  # not everybody has it
            return
        raise manual.error(f"there is no {files[0]}")
    for row in manual.table(path, ("youtube_id", "time_start", "time_end"), optional=("label",)):
        video = row["youtube_id"]
        try:
            key = f"{video}_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
        except ValueError:
            raise manual.error(f"{path} has times of {video} that are no numbers") from None
        yield _Clip(video, key, row.get("label") or None, videos.find(key, video))


def _names(clips: Mapping[str, list[_Clip]]) -> tuple[str, ...]:
    """The classes that are trained on, sorted, as everybody numbers them."""
    return tuple(sorted({clip.label for clip in clips["train"] if clip.label is not None}))


def _number(manual: Manual, number: Mapping[str, int], label: str, split: str) -> int:
    if label not in number:
        raise manual.error(f"class {label!r} of {split} is not among those of the training set")
    return number[label]
