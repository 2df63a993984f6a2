"""MSR-VTT, videos with about twenty captions and one of twenty categories, from the owners' annotations and videos.

    call("data.sources.catalog", catalog=call("data.catalogs.msr_vtt.read", directory="msr_vtt"))

The directory holds `MSRVTT_data.json`, or `train_val_videodatainfo.json` and maybe `test_videodatainfo.json` (each
{"videos": […], "sentences": […]}), in itself or in `annotation/`, and the videos, `video0.mp4` and so on, in any
folders below it. The version 1k-A, on which retrieval is compared, needs `MSRVTT_train.9k.csv` (column `video_id`) and
`MSRVTT_JSFUSION_test.csv` (columns `video_id` and `sentence`) as well.
"""

from typing import Any

from vmae_jax.data.catalog import catalog
from vmae_jax.data.listing import Listing, Manual, Split

__all__ = ["CATEGORIES", "read"]

LAYOUT = "MSRVTT_data.json (or {train_val,test}_videodatainfo.json) and the videos"
CATEGORIES = (
    "music", "people", "gaming", "sports/actions", "news/events/politics", "education", "TV shows", "movie/comedy",
    "animation", "vehicles/autos", "howto", "travel", "science/technology", "animals/pets", "kids/family",
    "documentary", "food/drink", "cooking", "beauty/fashion", "advertisement",
)  # fmt: skip
SPLITS = {"train": "train", "validate": "validation", "test": "test"}
TRAIN_9K, TEST_1K = "MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv"


@catalog(version=("full", "1k-A"), captions=("all", "first"))
def read(directory: str, version: str = "full", captions: str = "all") -> Listing:
    """Read MSR-VTT; a caption is the field "text", the category the label "label".

    Args:
      directory: the folder with the owners' files.
      version: full, the owners' splits; or 1k-A, 9,000 videos to train on and 1,000 to test with one caption each.
      captions: all: every caption is an example of its own, VIDEO_0, VIDEO_1, …; first: every video is one example.
    """
    manual = Manual("msr_vtt", directory, layout=LAYOUT, beside=("annotation", "annotations"))
    about, texts = _annotations(manual)
    videos = manual.videos()
    chosen: dict[str, list[tuple[str, list[str]]]] = {}
    if version == "full":
        for video, one in about.items():
            chosen.setdefault(SPLITS.get(str(one.get("split")), ""), []).append((video, texts.get(video, [])))
        if "" in chosen:
            raise manual.error(f"{chosen[''][0][0]} is of none of the splits {', '.join(SPLITS)}")
    else:
        train = manual.table(manual.need(*manual.annotations(TRAIN_9K)), ("video_id",))
        test = manual.table(manual.need(*manual.annotations(TEST_1K)), ("video_id", "sentence"))
        chosen["train"] = [(row["video_id"], texts.get(row["video_id"], [])) for row in train]
        chosen["test"] = [(row["video_id"], [row["sentence"]]) for row in test]
    splits = {split: Split() for split in SPLITS.values() if split in chosen}
    for split, rows in splits.items():
        for video, sentences in chosen[split]:
            if video not in about or not sentences:
                raise manual.error(f"{video} of {split} has no {'caption' if video in about else 'annotation'}")
            category = int(about[video].get("category", -1))
            if category >= len(CATEGORIES):
                raise manual.error(f"{video} has the category {category}, and there are {len(CATEGORIES)}")
            for count, text in enumerate(sentences if captions == "all" else sentences[:1]):
                key = video if captions == "first" else f"{video}_{count}"
                rows.add(key, videos.find(video), labels={"label": category, "text": text})
    return Listing({"label": CATEGORIES}, splits, text=True)


def _annotations(manual: Manual) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Return what is known of each video, and its captions in the order of their numbers, by its id."""
    whole = manual.find(*manual.annotations("MSRVTT_data.json"))
    paths = [whole] if whole else [manual.need(*manual.annotations("train_val_videodatainfo.json"))]
    if not whole and (test := manual.find(*manual.annotations("test_videodatainfo.json"))):
        paths.append(test)
    about: dict[str, dict[str, Any]] = {}
    sentences: dict[str, list[tuple[int, str]]] = {}
    for path in paths:
        data = manual.json(path, dict)
        about |= {str(one["video_id"]): one for one in data["videos"]}
        for one in data["sentences"]:
            sentences.setdefault(str(one["video_id"]), []).append((int(one["sen_id"]), str(one["caption"])))
    return about, {video: [text for _, text in sorted(found)] for video, found in sentences.items()}
