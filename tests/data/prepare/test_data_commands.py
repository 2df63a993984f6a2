"""`vmae data …` as people call it: what it prints last, and its exit status."""

import json

import pytest

from vmae_jax import cli


@pytest.fixture
def vmae(capsys):
    def run(*words):
        status = cli.main(["data", *map(str, words)])
        told = capsys.readouterr()
        return status, json.loads(told.out.splitlines()[-1]), told.err

    return run


def test_from_videos_to_records(vmae, video_folder, tmp_path):
    out = tmp_path / "out"
    words = ("prepare", video_folder / "even", f"--out={out}", "--quiet", "--workers=1")
    status, told, words_told = vmae(*words)
    assert (status, told["videos"], told["rejected"], told["shards"]) == (0, 5, 0, 1)
    assert "5 videos" in words_told
    assert vmae(*words)[:2] == (status, told)  # done already
    status, told, words_told = vmae("info", out)
    assert (status, told["splits"]["train"]["examples"], told["splits"]["train"]["videos"]) == (0, 5, 5)
    assert "codec keep" in words_told
    status, told, _ = vmae(*words, "--codec=h264")
    assert (status, "codec was keep, is h264" in told["error"]) == (2, True)


def test_mistakes_leave_nothing_behind(vmae, tmp_path):
    for words in (
        ("prepare", tmp_path / "none", f"--out={tmp_path / 'out'}"),
        ("info", tmp_path),
        ("validate", tmp_path),
    ):
        status, told, _ = vmae(*words)
        assert status == 2
        assert told["status"] == "error"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "text.mp4").write_bytes(b"no video")
    for command in (("prepare", tmp_path, f"--out={tmp_path / 'out'}"), ("validate", tmp_path)):
        status, told, _ = vmae(*command, "--timeout=0")
        assert (status, told["error"]) == (2, "timeout=0: above 0, in seconds")
    status, told, _ = vmae("prepare", tmp_path, f"--out={tmp_path / 'out'}", "--workers=1")
    assert (status, "none of the 1 videos can be read" in told["error"]) == (1, True)
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert left == []


def test_validate_says_what_is_broken(vmae, video_folder, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "good.mp4").write_bytes((video_folder / "even/video_0.mp4").read_bytes())
    assert vmae("validate", videos, "--quiet")[:2] == (
        0,
        {"status": "ok", "videos": 1, "unreadable": 0, "broken": 0, "unsupported": 0, "missing": 0, "found": {}},
    )
    (videos / "text.mp4").write_text("no video")
    status, told, words = vmae("validate", videos, "--quiet", f"--json={tmp_path / 'found.json'}")
    assert (status, told["broken"], told["found"]) == (1, 1, {"broken": 1})
    assert "text.mp4: is no readable video" in words
    (entry,) = json.loads((tmp_path / "found.json").read_text())["found"]
    assert entry["key"] == "text.mp4"
