"""Diving48, version 2 of its labels, from the owners' files.

    call("data.sources.tfds", name="diving48", prepare=True,
         config=call("data.builders.diving48.config", directory="diving48"))

The directory holds `Diving48_V2_train.json`, `Diving48_V2_test.json` (lists of `vid_name`, `label`, …),
`Diving48_vocab.json` (what each class is made of), in it or in `annotations/`, and the videos,
`{vid_name}.mp4` anywhere below it (the archive has them in `rgb/`).
"""

import functools
from typing import Any

from vmae_jax.data import listed_builder
from vmae_jax.data.listing import Listing, Manual, Split
from vmae_jax.registry import register

__all__ = ["builder", "builder_config", "config"]

LAYOUT = "Diving48_V2_train.json, Diving48_V2_test.json, Diving48_vocab.json and rgb/*.mp4"


@register("dataset")
def config(directory: str | None = None) -> listed_builder.Settings:
    """Diving48 with its cleaned labels (V2), splits "train" and "test".

    Args:
      directory: the folder with the owners' files; not needed once it is prepared.
    """
    return listed_builder.Settings("diving48", "v2", functools.partial(_listing, directory))


def builder_config(settings: Any) -> Any:
    """The TFDS BuilderConfig that stands for `settings`."""
    return listed_builder.config_of("diving48", settings)


@functools.cache
def builder() -> type:
    """The TFDS builder class."""
    return listed_builder.builder_class("diving48", description="48 dives that only their motion tells apart.")


def _listing(directory: str | None) -> Listing:
    manual = Manual("diving48", directory, layout=LAYOUT)
    vocabulary = manual.json(_file(manual, "Diving48_vocab.json"), list)
    names = tuple(" ".join(one) if isinstance(one, list) else str(one) for one in vocabulary)
    videos = manual.videos()
    splits = {"train": Split(), "test": Split()}
    for split, rows in splits.items():
        path = _file(manual, f"Diving48_V2_{split}.json")
        for row in manual.json(path, list):
            if not 0 <= row["label"] < len(names):
                raise manual.error(f"{path} has the class {row['label']}, but Diving48_vocab.json {len(names)} classes")
            rows.add(row["vid_name"], videos.find(row["vid_name"]), labels={"label": row["label"]})
    return Listing({"label": names}, splits)


def _file(manual: Manual, name: str) -> str:
    return manual.need(name, f"annotations/{name}")
