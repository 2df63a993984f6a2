"""Broken files never stop training and never pass silently: each is listed once, and no good one is lost."""

import json

import pytest
from broken_videos import BAD, EITHER, GOOD, broken_videos, four_k

from vmae_jax.data import clips, pipeline, sources, transforms
from vmae_jax.data.opened import open_loader
from vmae_jax.data.prepare.inputs import Origin
from vmae_jax.data.prepare.validate import UNREADABLE, validate
from vmae_jax.io.quarantine import Quarantine


def write(folder, files):
    """The files in a folder; returns what is expected of each."""
    folder.mkdir()
    expected = {}
    for name, data, kind in files:
        (folder / name).write_bytes(data)
        expected[name] = kind
    return expected


def an_epoch(folder, quarantine, *, start=0):
    """Trains' way of reading all videos once, from `start`; the names that came out."""
    loader = pipeline.loader(
        sources.folder(str(folder)),
        clips.dense(4, 2),
        [transforms.multi_scale_crop(size=16)],
        global_batch=4,
        workers=2,
        max_bad_fraction=1.0,
    )
    opened = open_loader(loader)
    names = [opened.source.key(i) for i in range(len(opened))]
    seen = set()
    with opened.batches(rows=range(4), seed=1, start=start) as batches:
        for _ in range(-(-(len(names) - start) // 4)):
            batch = next(batches)
            assert batch["valid"].all()
            seen |= {names[i] for i in batch["index"]}
            quarantine.add(batches.faults())
    return seen


def check(folder, expected, path):
    seen = an_epoch(folder, Quarantine(path))
    an_epoch(folder, Quarantine(path), start=len(expected) // 2)  # a restart meets some of them again
    listed = [json.loads(line)["path"] for line in path.read_text().splitlines()]
    reasons = [json.loads(line)["reason"] for line in path.read_text().splitlines()]
    assert len(listed) == len(set(listed))
    assert {expected[name] for name in seen & set(listed)} <= {EITHER}  # a clip may include the damage or not
    assert seen | set(listed) == set(expected)
    assert {name for name in listed if expected[name] == GOOD} == set()
    assert {name for name in seen if expected[name] == BAD} == set()
    assert all(reason and "\n" not in reason for reason in reasons)


def test_a_few_of_each_kind(tmp_path):
    files = [file for file in broken_videos(flips=2) if "cut_" not in file[0] or "cut_5" in file[0]]
    check(tmp_path / "videos", write(tmp_path / "videos", files), tmp_path / "quarantine.jsonl")


@pytest.mark.slow
def test_all_of_them(tmp_path):
    files = [*broken_videos(), ("4k.mp4", four_k(), GOOD)]
    expected = write(tmp_path / "videos", files)
    assert sum(kind != GOOD for kind in expected.values()) >= 200
    check(tmp_path / "videos", expected, tmp_path / "quarantine.jsonl")


def test_validate_finds_them_and_the_strange_ones(tmp_path):
    files = [file for file in broken_videos(flips=1) if file[2] != EITHER]
    expected = write(tmp_path / "videos", files)
    result = validate(Origin((str(tmp_path / "videos"),)), least=4, workers=2, progress=False)
    found = {}
    for entry in result["found"]:
        found.setdefault(entry["key"], {})[entry["kind"]] = entry["reason"]
    broken = {key for key, kinds in found.items() if set(kinds) & set(UNREADABLE)}
    assert broken == {name for name, kind in expected.items() if kind == BAD}
    assert result["unreadable"] == len(broken)
    assert found["sound.mp4"] == {"unsupported": "has no video stream"}
    assert set(found["one_frame.mp4"]) == {"short"}
    assert set(found["rotated.mp4"]) == {"rotated"}
    assert "variable" in found["variable_rate.mp4"]
    assert "odd size" in found["odd_size.mkv"]
    assert "whole.mp4" not in found
    some = [validate(Origin((str(tmp_path / "videos"),)), sample=5, progress=False) for _ in range(2)]
    assert some[0] == some[1]
    assert some[0]["videos"] == 5
