"""AVA's actions as classes of short clips, from the owners' annotations and movies.

    call("data.sources.catalog", catalog=call("data.catalogs.ava.read", directory="ava"), label="labels")

An example is the seconds around an annotated moment of a movie; its "labels" are the actions of all
the people in that moment (boxes are left aside: this is AVA for pre-training, classification and
multi-label tests, not for detection). With clips="consecutive" it is one of the parts, end to end, of the
quarter of an hour that is annotated: at ten seconds the training movies give some 21,000.

The directory holds `ava_train_v2.2.csv`, `ava_val_v2.2.csv`,
`ava_action_list_v2.2_for_activitynet_2019.pbtxt` (60 actions) or `ava_action_list_v2.2.pbtxt` (80),
the `ava_{train,val}_excluded_timestamps_v2.2.csv` where they were handed out, all in it or in
`annotations/`, and the movies, `{video_id}.mp4` (mkv, webm) anywhere below it.
"""

import re

from vmae_jax.data.catalog import catalog
from vmae_jax.data.listing import Listing, Manual, Split
from vmae_jax.spec import ConfigError

__all__ = ["read"]

LAYOUT = "ava_train_v2.2.csv, ava_val_v2.2.csv, ava_action_list_v2.2_for_activitynet_2019.pbtxt and the movies"
FILES = {"train": "train", "validation": "val"}
QUARTER = (900.0, 1800.0)  # the seconds of every movie that are annotated
ACTION = re.compile(r'name:\s*"([^"]*)"\s+(?:label_)?id:\s*(\d+)')


@catalog(version=("2.1", "2.2"), clips=("annotated", "consecutive"))
def read(
    directory: str,
    version: str = "2.2",
    seconds: float = 3.0,
    clips: str = "annotated",
    begins: float = 0.0,
    short_side: int = 320,
) -> Listing:
    """Read AVA as clips with several classes.

    Args:
      directory: the folder with the owners' files.
      version: of the annotations: 2.1 or 2.2.
      seconds: of a clip.
      clips: "annotated", around each annotated moment, or "consecutive", end to end.
      begins: the second of the movie at which the files begin: 0 for the movies as they are handed
        out, 900 for the quarters of an hour that many cut out of them.
      short_side: pixels that stored clips are shrunk to.

    Raises:
      ConfigError: if a number is out of range, or an annotation file is missing or malformed.
    """
    if not 0 < seconds <= 60 or begins < 0:
        raise ConfigError(
            f"ava: seconds must be above 0 and at most 60, and begins not negative; got {seconds:g} and {begins:g}"
        )
    manual = Manual(f"ava v{version}", directory, layout=LAYOUT.replace("2.2", version))
    number, names = _actions(manual, version)
    videos = manual.videos()
    splits = {split: Split() for split in FILES}
    for split, rows in splits.items():
        excluded = _excluded(manual, f"ava_{FILES[split]}_excluded_timestamps_v{version}.csv")
        moments = _moments(manual, f"ava_{FILES[split]}_v{version}.csv")
        moments = {at: actions for at, actions in moments.items() if at not in excluded}
        if clips == "consecutive":
            moments = _consecutive(moments, seconds)
        for (video, moment), actions in moments.items():
            labels = tuple(sorted(number[action] for action in actions if action in number))
            middle = moment - begins
            span = (max(0.0, middle - seconds / 2), middle + seconds / 2)
            key = f"{video}_{moment:06.0f}" if clips == "annotated" else f"{video}_{moment - seconds / 2:08.2f}"
            rows.add(key, videos.find(video), labels={"labels": labels}, span=span)
    return Listing({"labels": names}, splits, short_side=short_side)


_Moments = dict[tuple[str, float], set[int]]  # (movie, second) -> actions


def _consecutive(moments: _Moments, seconds: float) -> _Moments:
    """The middles of clips end to end, each with the actions of all the moments in it."""
    first, last = QUARTER
    count = int((last - first) / seconds)
    middles = [first + (i + 0.5) * seconds for i in range(count)]
    clips: _Moments = {(video, middle): set() for video, _ in moments for middle in middles}
    for (video, moment), actions in moments.items():
        at = int((moment - first) / seconds)
        if 0 <= at < count:
            clips[video, middles[at]] |= actions
    return clips


def _actions(manual: Manual, version: str) -> tuple[dict[int, int], tuple[str, ...]]:
    """Our number of each action by theirs (which start at 1 and have gaps), and the names."""
    year = {"2.1": 2018, "2.2": 2019}[version]
    files = [f"ava_action_list_v{version}_for_activitynet_{year}.pbtxt", f"ava_action_list_v{version}.pbtxt"]
    path = manual.need(*manual.annotations(*files))
    found = [(int(number), name) for name, number in ACTION.findall(manual.text(path))]
    if not found:
        raise manual.error(f'{path} has no action (name: "…", label_id or id)')
    found.sort()
    return {theirs: ours for ours, (theirs, _) in enumerate(found)}, tuple(name for _, name in found)


def _moments(manual: Manual, file: str) -> _Moments:
    """The actions of each annotated moment; a row of the file is one action of one person."""
    path = manual.need(*manual.annotations(file))
    columns = ("video_id", "moment", "x1", "y1", "x2", "y2", "action", "person")
    moments: _Moments = {}
    for row in manual.table(path, columns, header=False):
        try:
            moment = moments.setdefault((row["video_id"], float(row["moment"])), set())
            if row["action"]:  # a moment without an action has empty fields
                moment.add(int(row["action"]))
        except ValueError:
            raise manual.error(f"{path} has {', '.join(row.values())!r}, which is no annotation") from None
    return moments


def _excluded(manual: Manual, file: str) -> set[tuple[str, float]]:
    path = manual.find(*manual.annotations(file))
    if path is None:
        return set()
    rows = manual.table(path, ("video_id", "moment"), header=False)
    return {(row["video_id"], float(row["moment"])) for row in rows}
