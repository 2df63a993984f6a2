"""What is beside videos is stored with them and read back: the same streams from records as from files."""

import json
import re

import every_stream
import numpy as np
import pytest

from vmae_jax import cli
from vmae_jax.data.opened import open_loader
from vmae_jax.spec import build, call

BESIDE = [f"--beside={name}={suffix}" for name, suffix in every_stream.SIDES.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("every")
    every_stream.write_every(root, count=3)
    return root


def prepare(capsys, *arguments):
    status = cli.main(["data", "prepare", *map(str, arguments), "--quiet", "--workers=1"])
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


def by_video(source, **options):
    """Every video once: its arrays, by a number that is in all of its streams."""
    loader = build(every_stream.config("/nowhere", source=source, repeat=1, shuffle=False, **options), "loader")
    opened = open_loader(loader)
    found = []
    for batch in opened.once(rows=range(2)):
        found += [{name: array[row] for name, array in batch.items()} for row in range(2) if batch["valid"][row]]
    return found


def test_records_of_whole_files_give_the_same_streams(folder, tmp_path, capsys):
    status, report = prepare(capsys, folder, f"--out={tmp_path / 'out'}", *BESIDE)
    assert (status, report["status"]) == (0, "ok")
    middle = call("data.clips.uniform", frames=4, random=False)  # seeds go by position, which differs
    crop = {"sampler": middle, "transforms": [call("data.transforms.resize", size=32)]}
    streams = every_stream.streams()
    streams["text"].random = False
    files = by_video(every_stream.source(folder), streams=streams, **crop)
    records = by_video(call("data.sources.folder", path=str(tmp_path / "out")), streams=streams, **crop)
    records.sort(key=lambda row: row["boxes_id"][0, 0])
    assert len(files) == len(records) == 3
    for one, other in zip(files, records, strict=True):
        for name in one.keys() - {"index", "seed"}:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        assert other["audio_valid"]


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_parts_of_videos_find_their_own_times_and_frames(folder, tmp_path, capsys, codec):
    """Of 1.6 seconds in parts of 0.8, at half the frames: what is beside them keeps the clock of the whole video."""
    status, _ = prepare(
        capsys, folder, f"--out={tmp_path / 'out'}", *BESIDE, f"--codec={codec}", "--seconds=0.8", "--rate=12.5"
    )
    assert status == 0
    rows = by_video(
        call("data.sources.folder", path=str(tmp_path / "out")),
        sampler=call("data.clips.uniform", frames=10),
    )
    assert len(rows) == 6
    firsts = set()
    for row in rows:
        number = int(row["boxes_id"][0, 0])
        assert row["boxes_mask"][:, 0].all()
        assert row["flow_mask"].all()
        assert (row["flow"] == 100 + number).all()
        begin = round(float(row["imu"][0, 0]) - number - 0.8 / 12, 1)  # of the first of six moments in 0.8 seconds
        firsts.add((number, begin))
        np.testing.assert_allclose(row["imu"][:, 0], number + begin + (np.arange(6) + 0.5) / 6 * 0.8, atol=1e-3)
        assert row["audio_valid"]
    assert firsts == {(number, begin) for number in range(3) for begin in (0.0, 0.8)}


def rows_by_name(directory, streams):
    """The middle of each record, with the random things of its streams left out, by the record's name."""
    source = build(call("data.sources.folder", path=str(directory)), "source").open()
    names = [source.fetch(index).key.partition("/")[2] for index in range(len(source))]
    rows = by_video(
        call("data.sources.folder", path=str(directory)),
        streams=streams,
        sampler=call("data.clips.uniform", frames=4, random=False),
        transforms=[call("data.transforms.resize", size=32)],
    )
    return dict(zip(names, rows, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["--codec=h264", "--seconds=0.8", "--rate=12.5"], ["--codec=keep"]),
        (["--codec=h264", "--seconds=0.8"], ["--codec=h264", "--quality=1"]),
        (["--codec=h264", "--seconds=0.8"], ["--codec=jpeg", "--seconds=0.4"]),
    ],
)
def test_records_of_records_have_the_same_streams(folder, tmp_path, capsys, first, second):
    """A label that is text, sound, and whatever is beside the videos, by the clock and frames of the whole."""
    streams = every_stream.streams()
    del streams["motion"]  # of the codec
    streams["text"].random = False
    for source, out, how in ((folder, "once", [*first, *BESIDE]), (tmp_path / "once", "twice", second)):
        status, report = prepare(capsys, source, f"--out={tmp_path / out}", *how)
        assert (status, report["rejected"]) == (0, 0)
    before, after = (rows_by_name(tmp_path / out, streams) for out in ("once", "twice"))
    if "--seconds=0.4" in second:
        assert len(after) == 2 * len(before)
        for row in after.values():
            assert all(row[f"{name}_valid"] for name in streams)
            assert all(row[name].all() for name in ("imu_mask", "flow_mask"))
            assert row["boxes_mask"][:, 0].all()
        return
    # records that are read as `train-000000000` take other places
    by_content = [
        {(int(row["boxes_id"][0, 0]), round(float(row["imu"][0, 0]), 3)): row for row in rows.values()}
        for rows in (before, after)
    ]
    assert by_content[0].keys() == by_content[1].keys()
    for content, row in by_content[0].items():
        other = by_content[1][content]
        assert all(other[f"{name}_valid"] for name in streams)
        for name in row.keys() - {"index", "seed", "video"}:
            np.testing.assert_array_equal(row[name], other[name], err_msg=name)


def test_only_what_was_asked_for_is_stored(folder, tmp_path, capsys):
    prepare(capsys, folder, f"--out={tmp_path / 'out'}", "--beside=text=.txt")
    source = build(call("data.sources.folder", path=str(tmp_path / "out"))).open()
    assert {name for index in range(3) for name in source.fetch(index).sides} == {"text"}


def test_a_suffix_that_no_video_has_is_refused(folder, tmp_path, capsys):
    status, report = prepare(capsys, folder, f"--out={tmp_path / 'out'}", "--beside=text=.txt", "--beside=words=.doc")
    assert status == 2
    message = (
        r"--beside=words=\.doc: 0 of the 3 videos have a file with the suffix '\.doc', such as .*/0\.doc; check the"
    )
    assert re.match(message, report["error"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", ["text", "text=", "a b=.txt", "audio=.wav", "key=.txt"])
def test_names_that_cannot_be_are_refused(folder, tmp_path, capsys, wrong):
    status, report = prepare(capsys, folder, f"--out={tmp_path / 'out'}", f"--beside={wrong}")
    assert status == 2
    assert "--beside=" in report["error"]


def test_a_file_that_is_too_large_makes_its_video_a_rejected_one(folder, tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in (0, 1):
        (videos / f"{number}.mp4").write_bytes((folder / f"{number}.mp4").read_bytes())
    with open(videos / "1.txt", "wb") as file:
        file.truncate((64 << 20) + 1)
    status, report = prepare(capsys, videos, f"--out={tmp_path / 'out'}", "--beside=text=.txt")
    assert status == 0
    assert (report["videos"], report["rejected"]) == (1, 1)
