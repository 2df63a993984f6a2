"""Hosts whose videos differ find out before they train together, and what differs."""

import os
import shutil

import pytest
from numbered_videos import numbered_frames

from vmae_jax.data import sides, sources
from vmae_jax.data.encode import encode_h264
from vmae_jax.data.mixture import mixture
from vmae_jax.data.mixture import part as mixture_part
from vmae_jax.data.source import facts_of
from vmae_jax.runtime import distributed
from vmae_jax.spec import ConfigError


@pytest.fixture
def two(video_folder, tmp_path):
    """The same folder on two machines."""
    return [shutil.copytree(video_folder, tmp_path / name) for name in ("one", "two")]


def compared(*opened):
    """What the start of a job compares, of a source on each host."""
    notes = {rank: {"host": f"h{rank}", "facts": facts_of(source)} for rank, source in enumerate(opened)}
    distributed._compare("start", notes, timeout=1.0)


def folders(two, **options):
    return [sources.folder(str(folder), **options).open() for folder in two]


def test_the_same_videos_under_other_paths_agree(two, monkeypatch):
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    compared(*folders(two))
    compared(*folders(two, labels="folders"))
    (two[1] / "even/video_4.mp4").touch()
    compared(*folders(two))


def test_a_difference_is_named(two, monkeypatch):
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    video = two[1] / "even/video_4.mp4"
    data = video.read_bytes()
    video.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ConfigError, match=r"host 1 \(h1\) differs from host 0 \(h0\): contents of the videos") as error:
        compared(*folders(two))
    assert "sizes" not in str(error.value)
    video.write_bytes(encode_h264(numbered_frames(30)))
    with pytest.raises(ConfigError, match=r"sizes of the videos '[0-9a-f]{12}' instead of"):
        compared(*folders(two))
    video.rename(video.with_name(os.fsdecode(b"caf\xe9.mp4")))
    with pytest.raises(ConfigError, match="names of the videos"):
        compared(*folders(two))
    video.with_name(os.fsdecode(b"caf\xe9.mp4")).unlink()
    with pytest.raises(ConfigError, match=": videos 9 instead of 10; names of"):
        compared(*folders(two))


def test_labels_differ(two, monkeypatch):
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    for folder, label in zip(two, ("1", "2"), strict=True):
        (folder / "list.csv").write_text(f"even/video_4.mp4,0\nodd/video_5.mp4,{label}\n")
    with pytest.raises(ConfigError, match=r"\(h0\): labels of the videos '\w+' instead of '\w+'$"):
        compared(*(sources.csv(str(folder / "list.csv")).open() for folder in two))


def test_of_a_mixture_every_part_counts(two):
    mixed = [mixture({"a": part(folder), "b": part(two[0])}).open() for folder in two]
    assert facts_of(mixed[0]) == facts_of(mixed[1])
    (two[1] / "even/video_4.mp4").write_bytes(b"other")
    found = [facts_of(one) for one in mixed]
    assert found[0]["names of the videos"] == found[1]["names of the videos"]
    assert found[0]["sizes of the videos"] != found[1]["sizes of the videos"]


def part(folder):
    return mixture_part(source=sources.folder(str(folder)))


def test_what_is_beside_the_videos_is_compared(two, tmp_path, monkeypatch):
    """Another table, a file that one host lacks, and the same of a part of a mixture."""
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)

    def beside(folder, caption="a cat"):
        lines = ["path,caption", f"even/video_4,{caption}"]
        (folder.parent / f"{folder.name}.csv").write_text("\n".join(lines) + "\n")
        found = {
            "text": sides.table(str(folder.parent / f"{folder.name}.csv"), "caption"),
            "imu": sides.sidecar("_imu.csv"),
        }
        return sides.beside(sources.folder(str(folder)), found)

    for folder in two:
        for number in (2, 4):  # a side that no video has is refused
            (folder / f"even/video_{number}_imu.csv").write_text("seconds,x\n0,1\n")
    compared(*(beside(folder).open() for folder in two))
    differ = r"differs from host 0 \(h0\): files and tables beside the videos"
    with pytest.raises(ConfigError, match=differ):
        compared(beside(two[0]).open(), beside(two[1], "a dog").open())
    (two[1] / "even/video_4_imu.csv").unlink()
    with pytest.raises(ConfigError, match=differ):
        compared(*(beside(folder).open() for folder in two))
    with pytest.raises(ConfigError, match=differ):
        compared(*(mixture({"a": mixture_part(beside(folder))}).open() for folder in two))
