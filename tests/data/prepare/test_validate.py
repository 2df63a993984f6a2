"""What is found in a folder: broken, unsupported and missing files apart, and what is worth knowing of good ones."""

import io
import json
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from numbered_videos import changing_size, numbered_frames, write_video
from prepared_sets import in_this_process, prepare

from vmae_jax.data import clips, pipeline, sources, transforms
from vmae_jax.data.opened import open_loader
from vmae_jax.data.prepare import summary
from vmae_jax.data.prepare.inputs import Origin
from vmae_jax.data.prepare.validate import check, in_words, validate
from vmae_jax.data.video import ADVICE, Encoded
from vmae_jax.io.quarantine import Quarantine


def coded(codec, container, pixels, size=64, **options):
    """Three grey frames in a codec that is valid and not read."""
    file = io.BytesIO()
    with av.open(file, mode="w", format=container) as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width = stream.height = size
        stream.pix_fmt = pixels
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 40 * number, np.uint8), format="rgb24")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder of good, damaged and unsupported files."""
    folder = tmp_path_factory.mktemp("mixed")
    good = write_video(numbered_frames(24))
    for name, data in {
        "good.mp4": good,
        "cut.mp4": good[: len(good) // 2],
        "archive.avi": coded("ffv1", "avi", "yuv420p"),
        "animation.mov": coded("qtrle", "mov", "rgb24"),
        "camera.mov": coded("dnxhd", "mov", "yuv422p", 256, profile="dnxhr_sq"),
        "called_mp4.mp4": coded("gif", "gif", "rgb8"),
        "cat.gif": coded("gif", "gif", "rgb8"),
        "song.mp3": b"ID3 and so on",
        "notes.txt": b"not about videos",
    }.items():
        (folder / name).write_bytes(data)
    return folder


UNSUPPORTED = {
    "archive.avi": "is coded as ffv1, which is not decoded",
    "animation.mov": "is coded as qtrle, which is not decoded",
    "camera.mov": "is coded as dnxhd, which is not decoded",
    "called_mp4.mp4": "is a GIF animation, which is not decoded",
    "cat.gif": "is a .gif file, a format that is not decoded",
    "song.mp3": "is a .mp3 file: sound without pictures",
}


def test_three_kinds_of_findings(mixed, tmp_path):
    result = validate(Origin((str(mixed),)), workers=1, progress=False)
    found = {entry["key"]: (entry["kind"], entry["reason"]) for entry in result["found"]}
    assert found.keys() == {"cut.mp4", *UNSUPPORTED}
    assert {key: found[key] for key in UNSUPPORTED} == {key: ("unsupported", why) for key, why in UNSUPPORTED.items()}
    assert found["cut.mp4"][0] == "broken"
    counts = {name: result[name] for name in ("videos", "unreadable", "broken", "unsupported", "missing")}
    assert counts == {"videos": 8, "unreadable": 7, "broken": 1, "unsupported": 6, "missing": 0}
    words = in_words(result)
    assert "8 videos, 1 broken, 6 unsupported, 0 missing" in words
    assert f"unsupported: 6 ({ADVICE['unsupported']})" in words

    (tmp_path / "list.csv").write_text(f"{mixed}/good.mp4 0\n{mixed}/gone.mp4 1\n")
    result = validate(Origin((str(tmp_path / "list.csv"),)), workers=1, progress=False)
    (entry,) = result["found"]
    assert (entry["kind"], entry["reason"], result["missing"]) == ("missing", "does not exist", 1)
    assert entry["key"].endswith("gone.mp4")


def test_preparing_keeps_the_kinds_apart(mixed, tmp_path):
    manifest = prepare(mixed, tmp_path, runner=in_this_process, codec="h264")
    assert manifest["videos"] == 1
    rejected = {key: (kind, reason) for key, kind, reason in manifest["rejected"]}
    assert {key: rejected[key] for key in UNSUPPORTED} == {
        key: ("unsupported", why) for key, why in UNSUPPORTED.items()
    }
    assert rejected["cut.mp4"][0] == "broken"
    words = summary.in_words(manifest, str(tmp_path))
    assert "1 x is coded as ffv1, which is not decoded" in words  # names keep their digits
    assert f"unsupported files: {ADVICE['unsupported']}" in words


def test_training_lists_the_kind(mixed, tmp_path):
    for name in ("good.mp4", "cut.mp4", "archive.avi"):
        shutil.copy(mixed / name, tmp_path / name)
    (tmp_path / "list.csv").write_text("good.mp4\ncut.mp4\narchive.avi\ngone.mp4\n")
    loader = pipeline.loader(
        sources.csv(str(tmp_path / "list.csv")),
        clips.dense(4, 2),
        [transforms.multi_scale_crop(size=16)],
        global_batch=4,
        workers=1,
        max_bad_fraction=1.0,
    )
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    with open_loader(loader).batches(rows=range(4), seed=1) as batches:
        next(batches)
        quarantine.add(batches.faults())
    listed = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert {entry["path"]: entry["kind"] for entry in listed} == {
        "cut.mp4": "broken", "archive.avi": "unsupported", "gone.mp4": "missing",
    }  # fmt: skip


def findings(data):
    return dict(check(Encoded(data=data), least=1))


def test_what_is_worth_knowing_of_good_videos():
    frames = numbered_frames(6, size=64)
    assert findings(write_video(frames)) == {}
    assert findings(write_video(frames, rotation=180)) == {"rotated": "carries half a turn"}
    assert findings(write_video(frames, rotation=-90)) == {"rotated": "carries a quarter turn"}
    assert findings(write_video(frames, aspect=Fraction(4, 3))) == {
        "wide pixels": "has pixels of 4/3; it is shown at 85x64"
    }
    assert findings(write_video(frames, interlaced=True)) == {"interlaced": "holds fields in 6 of 6 frames"}
    changing = changing_size([(64, 64), (96, 64)], 8, container="webm", codec="libvpx-vp9")
    assert findings(changing) == {"changing size": "changes size from 64x64 to 96x64 at frame 8"}
