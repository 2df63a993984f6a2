"""Frame sampling equals the official loaders', for every row of every recipes file of $VMAE_GOLDENS."""

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
