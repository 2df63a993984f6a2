"""docs/streams.md: its loader builds, its stream works, and its table has every stream."""

import pathlib
import re
import sys
import types

import numpy as np
import pytest
from numbered_videos import numbered_frames, write_video

from vmae_jax import registry
from vmae_jax.data import clips, sides, sources, transforms
from vmae_jax.data.opened import open_loader
from vmae_jax.data.pipeline import loader
from vmae_jax.data.streams import audio, boxes, embeddings, motion, place, planes, segments, series, text, times
from vmae_jax.spec import build, call

PAGE = (pathlib.Path(__file__).resolve().parents[3] / "docs" / "streams.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
MODULES = (audio, boxes, embeddings, motion, place, planes, segments, series, text, times)


def test_the_loader_builds():
    [code] = [block for block in BLOCKS if "data.pipeline.loader" in block]
    made = build(eval(code, {"call": call}), "loader")
    assert set(made.spec()) >= {"audio", "audio_span", "audio_valid", "imu", "imu_mask", "imu_valid"}


def test_the_table_has_every_stream():
    listed = set(re.findall(r"^\| `(?:\w+\.)?(\w+)\(", PAGE, flags=re.MULTILINE))
    here = {module.__name__ for module in MODULES}
    registered = {
        name.rpartition(".")[2]
        for name, one in registry.components().items()
        if registry.registered(one).kind == "stream" and one.__module__ in here
    }
    assert listed == registered


@pytest.fixture
def actions(tmp_path, monkeypatch):
    """The page's stream, as a module that the decoding processes find too."""
    [code] = [block for block in BLOCKS if "def actions" in block]
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine

    assert isinstance(mine, types.ModuleType)
    yield mine.actions
    sys.modules.pop("mine")


def test_the_stream_of_one_s_own_works(actions, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.mp4").write_bytes(write_video(numbered_frames(20), container="mp4"))
    (folder / "0_actions.csv").write_text("begin,end,action\n0,0.2,4\n0.3,0.5,7\n")
    (folder / "1_actions.csv").write_text("begin,end\n0,1\n")
    source = sides.beside(sources.folder(str(folder)), {"actions": sides.sidecar("_actions.csv")})
    made = loader(
        source,
        clips.uniform(20),
        [transforms.resize(8)],
        streams={"actions": actions()},
        global_batch=3,
        workers=1,
        max_bad_fraction=1.0,
    )
    feed = open_loader(made).once(rows=range(3))
    batch = next(feed)
    shown = [4] * 5 + [-1] * 3 + [7] * 5 + [-1] * 7  # 25 frames a second
    np.testing.assert_array_equal(batch["actions"][0], shown)
    assert batch["actions_valid"].tolist() == [True, False, False]
    assert batch["valid"].tolist() == [True, False, True]
    assert [fault.reason for fault in feed.faults()] == ["actions: has no column 'action', only begin, end"]
    feed.close()
