"""`vmae data …` as people call it: what it prints last, and its exit status."""

import json
import shutil

import pytest

from vmae_jax import cli


@pytest.fixture
def vmae(capsys):
    def run(*words):
        status = cli.main(["data", *map(str, words)])
        result = capsys.readouterr()
        return status, json.loads(result.out.splitlines()[-1]), result.err

    return run


def test_from_videos_to_records(vmae, video_folder, tmp_path):
    out = tmp_path / "out"
    words = ("prepare", video_folder / "even", f"--out={out}", "--quiet", "--workers=1")
    status, result, words_reported = vmae(*words)
    assert (status, result["videos"], result["rejected"], result["shards"]) == (0, 5, 0, 1)
    assert "5 videos" in words_reported
    assert vmae(*words)[:2] == (status, result)  # done already
    status, result, words_reported = vmae("info", out)
    assert (status, result["splits"]["train"]["examples"], result["splits"]["train"]["videos"]) == (0, 5, 5)
    assert "codec keep" in words_reported
    status, result, _ = vmae(*words, "--codec=h264")
    assert (status, "codec was keep, is h264" in result["error"]) == (2, True)


def test_mistakes_leave_nothing_behind(vmae, tmp_path):
    for words in (
        ("prepare", tmp_path / "none", f"--out={tmp_path / 'out'}"),
        ("info", tmp_path),
        ("validate", tmp_path),
    ):
        status, result, _ = vmae(*words)
        assert status == 2
        assert result["status"] == "error"
    assert list(tmp_path.iterdir()) == []
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "text.mp4").write_bytes(b"no video")
    for command in (("prepare", videos, f"--out={tmp_path / 'out'}"), ("validate", videos)):
        status, result, _ = vmae(*command, "--timeout=0")
        assert (status, result["error"]) == (2, "timeout=0: above 0, in seconds")
    status, result, _ = vmae("prepare", videos, f"--out={tmp_path / 'out'}", "--workers=1")
    assert (status, "none of the 1 videos can be read" in result["error"]) == (1, True)
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert left == []


def test_validate_states_what_is_broken(vmae, video_folder, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "good.mp4").write_bytes((video_folder / "even/video_0.mp4").read_bytes())
    assert vmae("validate", videos, "--quiet")[:2] == (
        0,
        {"status": "ok", "videos": 1, "unreadable": 0, "broken": 0, "unsupported": 0, "missing": 0, "found": {}},
    )
    (videos / "text.mp4").write_text("no video")
    status, result, words = vmae("validate", videos, "--quiet", f"--json={tmp_path / 'found.json'}")
    assert (status, result["broken"], result["found"]) == (1, 1, {"broken": 1})
    assert "text.mp4: is no readable video" in words
    (entry,) = json.loads((tmp_path / "found.json").read_text())["found"]
    assert entry["key"] == "text.mp4"


def test_records_are_not_written_among_the_videos(vmae, video_folder, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(video_folder, videos)
    (tmp_path / "link").symlink_to(videos)
    (tmp_path / "list.csv").write_text("videos/even/video_0.mp4\n")
    for source, out, words in (
        (videos, videos, "is the source"),
        (videos, tmp_path / "link", "is the source"),
        (videos, videos / "records", "is inside the source"),
        (videos / "even", videos, "holds the source"),
        (tmp_path / "list.csv", tmp_path, "holds the source"),
        (videos / "even/video_0.mp4", videos / "even", "holds the source"),
    ):
        status, result, _ = vmae("prepare", source, f"--out={out}", "--quiet", "--workers=1")
        assert (status, words in result["error"]) == (2, True)
    assert sorted(path.name for path in videos.iterdir()) == ["even", "odd"]
    assert not list(tmp_path.rglob(".preparing"))


def test_an_option_that_would_be_ignored_is_an_error(vmae, video_folder, tmp_path):
    (tmp_path / "list.csv").write_text(f"{video_folder}/even/video_0.mp4\n")
    (tmp_path / "names.txt").write_text("even\nodd\n")
    records, video = tmp_path / "records", video_folder / "even/video_0.mp4"
    assert vmae("prepare", video_folder, f"--out={records}", "--quiet", "--workers=1")[0] == 0
    for source, option in (
        (records, "--labels=folders"),
        (records, "--names=x"),
        (video_folder, "--columns=path label"),
        (video_folder, "--root=/"),
        (video_folder, "--pictures=%d.jpg"),
        (video_folder, "--source-split=train"),
        (video_folder, f"--names={tmp_path / 'names.txt'}"),
        (tmp_path / "list.csv", "--labels=folders"),
        (video, "--labels=folders"),
        (video, "--root=/"),
        ("tfds:moving_shapes", "--labels=folders"),
        (tmp_path / "x.tar", "--names=x"),
    ):
        for command in ("prepare", "validate"):
            more = [f"--out={tmp_path / 'out'}"] if command == "prepare" else []
            status, result, _ = vmae(command, source, option, *more)
            assert (status, result["error"].startswith(option.partition("=")[0])) == (2, True), (source, option, result)
    for options in (["--gop=5"], ["--codec=jpeg", "--gop=5"], ["--no-sound"], ["--beam", "--workers=2"]):
        status, result, _ = vmae("prepare", video_folder, f"--out={tmp_path / 'out'}", *options)
        assert status == 2, (options, result)
    for options in (["--host=here"], ["--workers=2"]):
        status, result, _ = vmae("serve", "--open", *options)
        assert (status, "is an option of workers" in result["error"]) == (2, True)
    assert not (tmp_path / "out").exists()
