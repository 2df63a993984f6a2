"""Frame sampling equals the official loaders': every row of every recipes file of $VMAE_GOLDENS, and whole tables.

The tables (`goldens/sampling/README.md`) hold every length from 1 to 100 with every clip from 2 to 32 frames: odd and
short videos, which a few examples leave out.
"""

import json
import os
import pathlib

import numpy as np
import pytest

from vmae_jax.data import clips
from vmae_jax.data.video import VideoInfo

GOLDENS = pathlib.Path(os.environ.get("VMAE_GOLDENS") or pathlib.Path(__file__).parent.parent / "goldens")


def rows(section):
    found = []
    for path in sorted(GOLDENS.glob("recipes*.json")):
        for number, row in enumerate(json.loads(path.read_text()).get(section, [])):
            found.append(pytest.param(row, id=f"{path.stem}-{number}"))
    return found


def info(num_frames):
    return VideoInfo(num_frames, 25.0, np.arange(num_frames) / 25.0, 8, 8)


@pytest.mark.parametrize("row", rows("pretrain_clip_sampling"))
def test_pretraining_reads_the_official_frames(row):
    shape = row["num_frames"], row["clip_frames"], row["stride"]
    start = row["segment_start_1based"] - 1
    np.testing.assert_array_equal(clips.dense_frames(*shape, start), row["frame_ids_0based"])
    room = max(row["num_frames"] - row["clip_frames"] * row["stride"], 0)
    drawn = {clips.dense_start(*shape, np.array([0, k], np.uint32)) for k in range(64)}
    assert min(drawn) >= 0
    assert max(drawn) <= room
    assert 0 <= start <= room


@pytest.mark.parametrize("row", rows("classification_clip_sampling"))
def test_classification_reads_the_official_frames(row):
    want = np.array(row["loaded_frame_ids_0based"])
    seed = np.zeros(2, np.uint32)
    if row["mode"] == "validation":
        sparse = clips.uniform(row["num_segment"], random=False)
        dense = clips.dense_finetune(row["clip_len"], row["frame_sample_rate"], random=False)
        got = (sparse if row["sparse"] else dense)(info(row["num_frames"]), seed)[0]
    elif row["sparse"]:
        sampler = clips.multiview(row["num_segment"], 1, row["test_num_segment"], sparse=True)
        views = sampler(info(row["num_frames"]), seed)
        got = np.sort(views.ravel())
        # The official view k of the sorted frames is every `views`-th one from k.
        for view in range(len(views)):
            np.testing.assert_array_equal(views[view], got[view :: len(views)])
    else:
        sampler = clips.multiview(row["clip_len"], row["frame_sample_rate"], row["test_num_segment"])
        views = sampler(info(row["num_frames"]), seed)
        step = max(len(want) - row["clip_len"], 0) / max(row["test_num_segment"] - 1, 1)
        for view, frames in enumerate(views):
            start = int(view * step)
            np.testing.assert_array_equal(frames, want[start : start + row["clip_len"]])
        return
    assert got.min() >= 0
    assert got.max() < row["num_frames"]
    if want.min() >= 0:
        np.testing.assert_array_equal(got, want)
    else:
        assert got.shape == want.shape


def test_there_are_goldens_to_compare_with():
    assert rows("pretrain_clip_sampling"), f"no recipes*.json with clip sampling in {GOLDENS}"
    assert rows("classification_clip_sampling")


TABLES = pathlib.Path(__file__).parent.parent / "goldens" / "sampling" / "tables.npz"
LENGTHS, FRAMES, STRIDES = range(1, 101), range(2, 33), (1, 4)
SPARSE = [(length, frames) for length in LENGTHS for frames in FRAMES]
DENSE = [(*case, stride) for case in SPARSE for stride in STRIDES]


class Draw:
    """A generator that always draws the lowest, or the highest, number that it may."""

    def __init__(self, high):
        self.high = high

    def integers(self, low, high=None, size=None):
        low, high = (0, low) if high is None else (low, high)
        return np.full(() if size is None else size, high - 1 if self.high else low)


@pytest.fixture
def draw(monkeypatch):
    def fix(high):
        monkeypatch.setattr(clips, "generator", lambda seed: Draw(high))

    return fix


def table(name, cases):
    """The official frames of each case."""
    with np.load(TABLES) as tables:
        rows = tables[name]
    assert len(rows) == len(cases)
    return [row[row != -2] for row in rows]


def frames_of(sampler, length):
    return sampler(info(length), np.zeros(2, np.uint32))


def test_every_pretraining_clip(draw):
    cases = [(*case, high) for case in DENSE for high in (False, True)]
    for (length, frames, stride, high), want in zip(cases, table("pretrain", cases), strict=True):
        draw(high)
        np.testing.assert_array_equal(frames_of(clips.dense(frames, stride), length)[0], want)


@pytest.mark.parametrize(("name", "random", "high"), [
    ("dense_validation", False, False), ("dense_train_low", True, False), ("dense_train_high", True, True)
])  # fmt: skip
def test_every_dense_clip_of_classification(draw, name, random, high):
    draw(high)
    for (length, frames, stride), want in zip(DENSE, table(name, DENSE), strict=True):
        np.testing.assert_array_equal(frames_of(clips.dense_finetune(frames, stride, random), length)[0], want)


def test_every_dense_test_view():
    for (length, frames, stride), loaded in zip(DENSE, table("dense_test", DENSE), strict=True):
        for views in (2, 5):
            step = max((len(loaded) - frames) / (views - 1), 0)  # the official rule, which is not in the table
            want = [loaded[int(view * step) :][:frames] for view in range(views)]
            np.testing.assert_array_equal(frames_of(clips.multiview(frames, stride, views), length), want)


def test_every_sparse_test_view():
    for (length, frames), loaded in zip(SPARSE, table("sparse_test", SPARSE), strict=True):
        views = frames_of(clips.multiview(frames, 1, 2, sparse=True), length)
        np.testing.assert_array_equal(views, [loaded[0::2], loaded[1::2]])


def test_every_sparse_validation_clip():
    """Of videos; where the official loader reads frame -1 of a short video, the one for pictures has a rule."""
    tables = zip(
        SPARSE, table("sparse_validation_video", SPARSE), table("sparse_validation_pictures", SPARSE), strict=True
    )
    for (length, frames), video, pictures in tables:
        got = frames_of(clips.uniform(frames, random=False), length)[0]
        np.testing.assert_array_equal(got, video if length >= frames else pictures)
        part = length // frames
        if part:  # the rule itself: the frame with as many before it in its part as after it, or one fewer
            np.testing.assert_array_equal(got, np.arange(frames) * part + [(part - 1) // 2])


@pytest.mark.parametrize(("name", "high"), [("sparse_train_pictures_low", False), ("sparse_train_pictures_high", True)])
def test_every_sparse_training_clip(draw, name, high):
    draw(high)
    for (length, frames), want in zip(SPARSE, table(name, SPARSE), strict=True):
        np.testing.assert_array_equal(frames_of(clips.uniform(frames), length)[0], want)
