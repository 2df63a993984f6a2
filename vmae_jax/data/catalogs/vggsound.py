"""VGGSound, ten seconds of a video with the sound that is heard in them, from the owners' list and videos.

    call("data.sources.catalog", catalog=call("data.catalogs.vggsound.read", directory="vggsound"))

The directory holds `vggsound.csv` (without a header: YouTube id, start in seconds, class, split) and the videos under
their usual names, `{id}_{start:06d}.mp4`, in any folders below it.
"""

from vmae_jax.data.catalog import catalog
from vmae_jax.data.listing import Listing, Manual, Split, class_numbers

__all__ = ["read"]

SPLITS = {"train": "train", "test": "validation"}
COLUMNS = ("youtube_id", "start", "label", "split")


@catalog()
def read(directory: str) -> Listing:
    """Read VGGSound; classes are in the order of their names, and the owners' test set is the split "validation".

    Args:
      directory: the folder with the owners' files.
    """
    manual = Manual("vggsound", directory, layout="vggsound.csv and the videos")
    path = manual.need(*manual.annotations("vggsound.csv"))
    rows = list(manual.table(path, COLUMNS, header=False))
    names = tuple(sorted({row["label"] for row in rows}))
    number, videos = class_numbers(names), manual.videos()
    splits = {split: Split() for split in SPLITS.values()}
    for row in rows:
        if row["split"] not in SPLITS:
            raise manual.error(f"{path} has the split {row['split']!r}, not one of {', '.join(SPLITS)}")
        try:
            key = f"{row['youtube_id']}_{int(row['start']):06d}"
        except ValueError:
            raise manual.error(f"{path} has the start {row['start']!r}, which is no number of seconds") from None
        splits[SPLITS[row["split"]]].add(key, videos.find(key), labels={"label": number[row["label"]]})
    return Listing({"label": names}, splits)
