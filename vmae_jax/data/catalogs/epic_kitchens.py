"""Epic-Kitchens-100, a verb and a noun for every action, from the owners' annotations and videos.

    call("data.sources.catalog", catalog=call("data.catalogs.epic_kitchens.read", directory="epic_kitchens"))

The directory holds `EPIC_100_train.csv`, `EPIC_100_validation.csv`, `EPIC_100_verb_classes.csv`,
`EPIC_100_noun_classes.csv` (in it, in `annotations/` or in `epic-kitchens-100-annotations/`; a
`EPIC_100_test_timestamps.csv` is read where it is there) and the videos, `{participant}/videos/{video_id}.MP4`
or any folders below it. An action is a part of its video.
"""

import re

from vmae_jax.data.catalog import catalog
from vmae_jax.data.listing import Listing, Manual, Split

__all__ = ["read"]

LAYOUT = "EPIC_100_train.csv, EPIC_100_validation.csv, EPIC_100_{verb,noun}_classes.csv and the videos"
FILES = {"train": "train", "validation": "validation", "test": "test_timestamps"}


@catalog()
def read(directory: str, short_side: int = 320) -> Listing:
    """Read the actions of Epic-Kitchens-100 with the labels "verb" and "noun" (-1 in "test", whose are held back).

    Args:
      directory: the folder with the owners' files.
      short_side: pixels that stored actions are shrunk to.
    """
    beside = ("annotations", "epic-kitchens-100-annotations")
    manual = Manual("epic_kitchens", directory, layout=LAYOUT, beside=beside)
    names = {label: _classes(manual, label) for label in ("verb", "noun")}
    videos = manual.videos()
    splits: dict[str, Split] = {}
    for split, file in FILES.items():
        places = manual.annotations(f"EPIC_100_{file}.csv")
        path = manual.find(*places) if split == "test" else manual.need(*places)
        if path is None:  # not everybody has it
            continue
        splits[split] = Split()
        classes = () if split == "test" else ("verb_class", "noun_class")
        for row in manual.table(path, ("narration_id", "video_id", "start_timestamp", "stop_timestamp", *classes)):
            labels = {label: int(row.get(f"{label}_class", -1)) for label in names}
            for label, value in labels.items():
                if value >= len(names[label]):
                    raise manual.error(f"{path} has the {label} {value}, and there are {len(names[label])}")
            span = (_seconds(manual, path, row["start_timestamp"]), _seconds(manual, path, row["stop_timestamp"]))
            splits[split].add(row["narration_id"], videos.find(row["video_id"]), labels=labels, span=span)
    return Listing(names, splits, short_side=short_side)


def _classes(manual: Manual, label: str) -> tuple[str, ...]:
    path = manual.need(*manual.annotations(f"EPIC_100_{label}_classes.csv"))
    by_number = {int(row["id"]): row["key"] for row in manual.table(path, ("id", "key"))}
    if sorted(by_number) != list(range(len(by_number))):
        raise manual.error(f"{path} does not number its classes from 0 to {len(by_number) - 1}")
    return tuple(by_number[number] for number in range(len(by_number)))


def _seconds(manual: Manual, path: str, clock: str) -> float:
    """Seconds of "00:01:02.34"."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", clock)
    if match is None:
        raise manual.error(f"{path} has the time {clock!r}, which is not HH:MM:SS.SS")
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
