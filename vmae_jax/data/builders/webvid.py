"""WebVid (2M or 10M), videos with captions, from the owners' lists and the videos one could fetch.

    call("data.sources.tfds", name="webvid", prepare=True,
         config=call("data.builders.webvid.config", directory="webvid"))

The directory holds `results_2M_train.csv` and `results_2M_val.csv` (or 10M; columns `videoid`, `name`, …) and
the videos, `videos/{page_dir}/{videoid}.mp4` (or any folders below it).
"""

import functools
import hashlib
from typing import Any

from vmae_jax.data import listed_builder
from vmae_jax.data.listing import Listing, Manual, Split
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError

__all__ = ["builder", "builder_config", "config"]

FILES = {"train": "train", "validation": "val"}


@register("dataset")
def config(version: str = "2M", share: float = 1.0, directory: str | None = None) -> listed_builder.Settings:
    """WebVid; captions are the feature "text".

    Args:
      version: 2M or 10M.
      share: of the training videos that are taken: those whose ids have the smallest digests.
      directory: the folder with the owners' files; not needed once it is prepared.
    """
    if version not in ("2M", "10M"):
        raise ConfigError(f"webvid: version={version!r}; there are 2M and 10M")
    if not 0 < share <= 1:
        raise ConfigError(f"webvid: share={share}; it is above 0 and at most 1")
    name = version if share == 1 else f"{version}_{share:g}"
    return listed_builder.Settings("webvid", name, functools.partial(_listing, directory, version, share))


def builder_config(settings: Any) -> Any:
    """The TFDS BuilderConfig that stands for `settings`."""
    return listed_builder.config_of("webvid", settings)


@functools.cache
def builder() -> type:
    """The TFDS builder class."""
    return listed_builder.builder_class("webvid", description="Videos of stock footage with captions.")


def _listing(directory: str | None, version: str, share: float) -> Listing:
    lists = {split: f"results_{version}_{part}.csv" for split, part in FILES.items()}
    manual = Manual(f"webvid {version}", directory, layout=f"{' and '.join(lists.values())} and videos/")
    videos = manual.videos()
    splits = {split: Split() for split in FILES}
    for split, rows in splits.items():
        for row in manual.table(manual.need(lists[split]), ("videoid", "name")):
            if split == "validation" or _chosen(row["videoid"], share):
                rows.add(row["videoid"], videos.find(row["videoid"]), labels={"text": row["name"]})
    return Listing({}, splits, text=True)


def _chosen(key: str, share: float) -> bool:
    """The same videos whatever the machine and the order of the list."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < share * 2**64
