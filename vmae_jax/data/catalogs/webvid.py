"""WebVid (2M or 10M), videos with captions, from the owners' lists and the videos one could fetch.

    call("data.sources.catalog", catalog=call("data.catalogs.webvid.read", directory="webvid"))

The directory holds `results_2M_train.csv` and `results_2M_val.csv` (or 10M; columns `videoid`, `name`, …) and
the videos, `videos/{page_dir}/{videoid}.mp4` (or any folders below it).
"""

import hashlib

from vmae_jax.data.catalog import catalog
from vmae_jax.data.listing import Listing, Manual, Split
from vmae_jax.spec import ConfigError

__all__ = ["read"]

FILES = {"train": "train", "validation": "val"}


@catalog(version=("2M", "10M"))
def read(directory: str, version: str = "2M", share: float = 1.0) -> Listing:
    """Read WebVid; captions are the field "text".

    Args:
      directory: the folder with the owners' files.
      version: 2M or 10M.
      share: of the training videos that are taken: those whose ids have the smallest digests.

    Raises:
      ConfigError: if `share` is not above 0 and at most 1, or a list is missing or malformed.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"webvid: share must be above 0 and at most 1, got {share}")
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
