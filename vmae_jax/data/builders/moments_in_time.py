"""Moments in Time, and Multi-Moments in Time (several classes a video), from the owners' files.

    call("data.sources.tfds", name="moments_in_time", prepare=True,
         config=call("data.builders.moments_in_time.config", directory="mit"))

The directory holds `moments_categories.txt` (`NAME,NUMBER` a line), `trainingSet.csv`, `validationSet.csv`
(no first line of names: a video's path, then its class by name, or, of Multi-Moments, the numbers of
its classes) and the videos, `training/{path}` and `validation/{path}`; those of Multi-Moments lie in `videos/{path}`.
"""

import csv
import functools
import io
import os
from typing import Any

from vmae_jax.data import listed_builder
from vmae_jax.data.listing import Listing, Manual, Split, class_numbers
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError

__all__ = ["builder", "builder_config", "config"]

LAYOUT = "moments_categories.txt, trainingSet.csv, validationSet.csv, training/ and validation/ (or videos/)"
FILES = {"train": "training", "validation": "validation"}


@register("dataset")
def config(version: str = "v1", directory: str | None = None) -> listed_builder.Settings:
    """Moments in Time ("label") or Multi-Moments in Time ("labels").

    Args:
      version: v1 (one class a video), or multi.
      directory: the folder with the owners' files; not needed once it is prepared.
    """
    if version not in ("v1", "multi"):
        raise ConfigError(f"moments_in_time: version={version!r}; there are v1 and multi")
    listing = functools.partial(_listing, directory, version)
    return listed_builder.Settings("moments_in_time", version, listing)


def builder_config(settings: Any) -> Any:
    """The TFDS BuilderConfig that stands for `settings`."""
    return listed_builder.config_of("moments_in_time", settings)


@functools.cache
def builder() -> type:
    """The TFDS builder class."""
    return listed_builder.builder_class("moments_in_time", description="Actions and events in clips of three seconds.")


def _listing(directory: str | None, version: str) -> Listing:
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
