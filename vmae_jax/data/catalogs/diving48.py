"""Diving48, version 2 of its labels, from the owners' files.

    call("data.sources.catalog", catalog=call("data.catalogs.diving48.read", directory="diving48"))

The directory holds `Diving48_V2_train.json`, `Diving48_V2_test.json` (lists of `vid_name`, `label`, …),
`Diving48_vocab.json` (what each class is made of), in it or in `annotations/`, and the videos,
`{vid_name}.mp4` anywhere below it (the archive has them in `rgb/`).
"""

from vmae_jax.data.catalog import catalog
from vmae_jax.data.listing import Listing, Manual, Split

__all__ = ["read"]

LAYOUT = "Diving48_V2_train.json, Diving48_V2_test.json, Diving48_vocab.json and rgb/*.mp4"


@catalog()
def read(directory: str) -> Listing:
    """Read the cleaned labels (V2) of Diving48; its splits are "train" and "test".

    Args:
      directory: the folder with the owners' files.
    """
    manual = Manual("diving48", directory, layout=LAYOUT)
    vocabulary = manual.json(manual.need(*manual.annotations("Diving48_vocab.json")), list)
    names = tuple(" ".join(one) if isinstance(one, list) else str(one) for one in vocabulary)
    videos = manual.videos()
    splits = {"train": Split(), "test": Split()}
    for split, rows in splits.items():
        path = manual.need(*manual.annotations(f"Diving48_V2_{split}.json"))
        for row in manual.json(path, list):
            if not 0 <= row["label"] < len(names):
                raise manual.error(f"{path} has the class {row['label']}, but Diving48_vocab.json {len(names)} classes")
            rows.add(row["vid_name"], videos.find(row["vid_name"]), labels={"label": row["label"]})
    return Listing({"label": names}, splits)
