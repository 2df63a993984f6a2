"""AudioSet, ten seconds of a video with all the sounds that are in them, from the owners' lists and the videos one has.

    call("data.sources.catalog", catalog=call("data.catalogs.audioset.read", directory="audioset"))

The directory holds `balanced_train_segments.csv`, `unbalanced_train_segments.csv`, `eval_segments.csv` and
`class_labels_indices.csv`, in itself or in `metadata/`, and the videos in any folders below it. The owners hand out no
videos. Files have one of the names that are usual: the video's id alone, or after it "_" and the start, in
milliseconds or in seconds (with six digits or as many as it takes), and maybe "_" and the end in the same unit; also
with "Y" before the id.
"""

import csv
from collections.abc import Iterator
from typing import NamedTuple

from vmae_jax.data.catalog import catalog
from vmae_jax.data.listing import Listing, Manual, Split

__all__ = ["names_of", "read"]

LAYOUT = "{balanced_train,unbalanced_train,eval}_segments.csv, class_labels_indices.csv and the videos"
_BALANCED, _UNBALANCED = "balanced_train", "unbalanced_train"
TRAIN = {"balanced": [_BALANCED], "unbalanced": [_UNBALANCED], "full": [_UNBALANCED, _BALANCED]}


@catalog(version=("balanced", "unbalanced", "full"))
def read(directory: str, version: str = "full", whole: bool = False) -> Listing:
    """Read AudioSet with the classes "labels", of which a segment has one or several.

    Args:
      directory: the folder with the owners' lists and the videos.
      version: whose training segments: balanced (20 thousand), unbalanced (two million) or full, both.
      whole: the files are whole videos, of which a segment is a part; by default, each is a segment.
    """
    manual = Manual("audioset", directory, layout=LAYOUT, beside=("metadata", "annotations"))
    number, names = _classes(manual)
    videos = manual.videos()
    splits = {"train": Split(), "validation": Split()}
    for split, lists in (("train", TRAIN[version]), ("validation", ["eval"])):
        for name in lists:
            for one in _segments(manual, manual.need(*manual.annotations(f"{name}_segments.csv"))):
                unknown = [label for label in one.labels if label not in number]
                if unknown:
                    raise manual.error(f"{name}_segments.csv has the class {unknown[0]}, which is not in the list")
                found = videos.find(*(names_of(one.video, one.start, one.end) if not whole else _ids(one.video)))
                labels = {"labels": tuple(sorted(number[label] for label in one.labels))}
                span = (one.start, one.end) if whole else None
                splits[split].add(f"{one.video}_{round(1000 * one.start):06d}", found, labels=labels, span=span)
    return Listing({"labels": names}, splits)


class _Segment(NamedTuple):
    """A line of a list: the id of a video, seconds, and the ids of the classes."""

    video: str
    start: float
    end: float
    labels: tuple[str, ...]


def _classes(manual: Manual) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the number of each class by its id, and the names in the order of the numbers."""
    path = manual.need(*manual.annotations("class_labels_indices.csv"))
    rows = sorted(
        (int(row["index"]), row["mid"], row["display_name"])
        for row in manual.table(path, ("index", "mid", "display_name"))
    )
    if [number for number, *_ in rows] != list(range(len(rows))) or not rows:
        raise manual.error(f"{path} does not number its classes from 0 to {len(rows) - 1}")
    return {mid: number for number, mid, _ in rows}, tuple(name for *_, name in rows)


def _segments(manual: Manual, path: str) -> Iterator[_Segment]:
    """Yield the lines of a list, whose first ones are comments; a space follows each comma."""
    lines = (line for line in manual.lines(path) if not line.startswith("#"))
    for fields in csv.reader(lines, skipinitialspace=True):
        try:
            video, start, end, labels = fields
            yield _Segment(video, float(start), float(end), tuple(labels.split(",")))
        except ValueError:
            raise manual.error(f"{path} has the line {','.join(fields)!r}, not an id, two times and classes") from None


def names_of(video: str, start: float, end: float) -> list[str]:
    """Return the names, without their ends, that the file of a segment may have.

    Args:
      video: its YouTube id.
      start: in seconds.
      end: in seconds.
    """
    found = []
    for one in _ids(video):
        for unit in (1000, 1):
            first, last = round(unit * start), round(unit * end)
            found += [f"{one}_{first}_{last}", f"{one}_{first}", f"{one}_{first:06d}", f"{one}_{first:06d}_{last:06d}"]
        found.append(one)
    return found


def _ids(video: str) -> tuple[str, str]:
    return video, f"Y{video}"
