"""Moments in Time, and Multi-Moments in Time (several classes a video), from the owners' files.

    call("data.sources.catalog", catalog=call("data.catalogs.moments_in_time.read", directory="mit"))

The directory holds `moments_categories.txt` (`NAME,NUMBER` a line), `trainingSet.csv`, `validationSet.csv`
(no first line of names: a video's path, then its class by name, or, of Multi-Moments, the numbers of
its classes) and the videos, `training/{path}` and `validation/{path}`; those of Multi-Moments are in `videos/{path}`.
"""

import csv
import io
import os
from typing import Any

from vmae_jax.data.catalog import catalog
from vmae_jax.data.listing import Listing, Manual, Split, class_numbers

__all__ = ["read"]

LAYOUT = "moments_categories.txt, trainingSet.csv, validationSet.csv, training/ and validation/ (or videos/)"
FILES = {"train": "training", "validation": "validation"}


@catalog(version=("v1", "multi"))
def read(directory: str, version: str = "v1") -> Listing:
    """Read Moments in Time ("label") or Multi-Moments in Time ("labels").

    Args:
      directory: the folder with the owners' files.
      version: v1 (one class a video), or multi.
    """
    manual = Manual(f"moments_in_time {version}", directory, layout=LAYOUT)
    names = _names(manual)
    number = class_numbers(names)
    splits = {split: Split() for split in FILES}
    for split, rows in splits.items():
        path = manual.need(f"{FILES[split]}Set.csv")
        for fields in filter(None, csv.reader(io.StringIO(manual.text(path)))):
            video = manual.find(f"{FILES[split]}/{fields[0]}", f"videos/{fields[0]}", fields[0])
            try:
                if version == "v1":
                    labels: dict[str, Any] = {"label": number[fields[1]]}
                else:
                    labels = {"labels": tuple(sorted({int(field) for field in fields[1:] if field.strip()}))}
            except (KeyError, IndexError, ValueError):
                raise manual.error(f"{path} has {','.join(fields)!r}, whose class is unknown") from None
            if version == "multi" and not all(0 <= label < len(names) for label in labels["labels"]):
                raise manual.error(f"{path} has {','.join(fields)!r}; there are {len(names)} classes")
            rows.add(os.path.splitext(fields[0])[0], video, labels=labels)
    return Listing({"label" if version == "v1" else "labels": names}, splits)


def _names(manual: Manual) -> tuple[str, ...]:
    path = manual.need("moments_categories.txt", "mmit_categories.txt")
    rows = [line.rpartition(",")[::2] for line in manual.lines(path)]
    try:
        by_number = {int(number): name for name, number in rows}
        return tuple(by_number[i] for i in range(len(rows)))
    except (ValueError, KeyError):
        raise manual.error(f"{path} is not 'NAME,0', 'NAME,1', …") from None
