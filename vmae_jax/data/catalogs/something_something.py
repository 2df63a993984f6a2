"""Something-Something v1 (folders of pictures) and v2 (videos), from the owners' files.

    call("data.sources.catalog", catalog=call("data.catalogs.something_something.read", directory="ssv2"))

The directory of v2 holds `something-something-v2-labels.json`, `-train.json`, `-validation.json` and,
where it was handed out, `-test.json` (or `labels.json`, `train.json`, …; in it or in `labels/`), and the
videos `{id}.webm` (or mp4) anywhere below it. That of v1 holds
`something-something-v1-labels.csv`, `-train.csv`, `-validation.csv` and `-test.csv` (`id;label` a line),
and the folders of pictures `20bn-something-something-v1/{id}/00001.jpg`, ….
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from vmae_jax.data.catalog import catalog
from vmae_jax.data.listing import Listing, Manual, Split, class_numbers

__all__ = ["read"]

RATE = 12.0  # frames a second of both versions, as their owners state
SPLITS = ("train", "validation", "test")


@catalog(version=("v1", "v2"))
def read(directory: str, version: str = "v2") -> Listing:
    """Read a version of Something-Something; the labels of its test split are held back, hence -1.

    Args:
      directory: the folder with the owners' files.
      version: v1 or v2.
    """
    return _pictures(directory) if version == "v1" else _videos(directory)


def _videos(directory: str) -> Listing:
    layout = "something-something-v2-labels.json, -train.json, -validation.json and the videos {id}.webm"
    manual = Manual("something_something v2", directory, layout=layout, beside=("labels",))
    numbers = {name: int(number) for name, number in manual.json(_file(manual, "v2", "labels", "json"), dict).items()}
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise manual.error(f"the numbers of the labels are not 0 to {len(numbers) - 1}")
    videos = manual.videos()
    splits: dict[str, Split] = {}
    for split, path in _splits(manual, "v2", "json"):
        splits[split] = Split()
        for row in manual.json(path, list):
            # Templates mark their blanks, "Holding [something]"; the list of labels does not.
            name = row.get("template", "").replace("[", "").replace("]", "")
            label = _number(manual, numbers, name, path) if name else -1
            splits[split].add(str(row["id"]), videos.find(str(row["id"])), labels={"label": label})
    return Listing({"label": tuple(sorted(numbers, key=numbers.__getitem__))}, splits)


def _pictures(directory: str) -> Listing:
    layout = "something-something-v1-labels.csv, -train.csv, -validation.csv and 20bn-something-something-v1/{id}/*.jpg"
    manual = Manual("something_something v1", directory, layout=layout, beside=("labels",))
    names = tuple(line.strip('"') for line in manual.lines(_file(manual, "v1", "labels", "csv")))
    numbers = class_numbers(names)
    root = manual.need("20bn-something-something-v1", "frames")
    splits: dict[str, Split] = {}
    for split, path in _splits(manual, "v1", "csv"):
        splits[split] = Split()
        for row in manual.table(path, ("id",), optional=("label",), header=False, mark=";"):
            label = _number(manual, numbers, row["label"], path) if row.get("label") else -1
            frames = _frames(os.path.join(root, os.path.basename(row["id"])))
            splits[split].add(row["id"], frames, labels={"label": label}, rate=RATE)
    return Listing({"label": names}, splits)


def _splits(manual: Manual, version: str, suffix: str) -> Iterator[tuple[str, str]]:
    """The splits and their annotation files; the test split need not be there."""
    for split in SPLITS:
        path = _file(manual, version, split, suffix, needed=split != "test")
        if path is not None:
            yield split, path


def _file(manual: Manual, version: str, part: str, suffix: str, *, needed: bool = True) -> Any:
    names = manual.annotations(f"something-something-{version}-{part}.{suffix}", f"{part}.{suffix}")
    return manual.need(*names) if needed else manual.find(*names)


def _frames(folder: str) -> tuple[str, ...]:
    """The pictures of a folder in the order of their names, which are numbers of equal length."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith((".jpg", ".jpeg", ".png")))
    except OSError:
        return ()
    return tuple(os.path.join(folder, name) for name in names)


def _number(manual: Manual, numbers: Mapping[str, int], name: str, path: str) -> int:
    if name not in numbers:
        raise manual.error(f"{path} has the class {name!r}, which is not in the list of labels")
    return numbers[name]
