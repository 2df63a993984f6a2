"""A preparation that is killed again and again ends with the same bytes; memory stays small however long a video is."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from numbered_videos import numbered_frames
from prepared_sets import checksums, in_this_process, prepare

from vmae_jax.data.encode import encode_h264


def command(source, out):
    words = ["--codec=h264", "--quality=30", "--seconds=3", "--shards=12", "--workers=1", "--quiet"]
    return [sys.executable, "-m", "vmae_jax", "data", "prepare", str(source), f"--out={out}", *words]


def killed_at_work(words, folder, chance):
    """Starts the command and kills it while a shard is being written; False when it was done before."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 240
    before = set(folder.glob("killed/.preparing/train/*.tmp"))
    while process.poll() is None and not set(folder.glob("killed/.preparing/train/*.tmp")) - before:
        assert time.monotonic() < end, "it did not begin in time"
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.6))
    process.kill()
    return process.wait(timeout=60) == -signal.SIGKILL


@pytest.mark.slow
def test_killed_ten_times(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(12):
        (videos / f"{number}.mp4").write_bytes(encode_h264(numbered_frames(150, size=192, colour=20 * number)))
    chosen = {"codec": "h264", "quality": 30, "seconds": 3.0, "shard_count": 12, "runner": in_this_process}
    whole = prepare(videos, tmp_path / "whole", **chosen)
    chance = random.Random(0)
    killed = sum(killed_at_work(command(videos, tmp_path / "killed"), tmp_path, chance) for _ in range(10))
    assert killed >= 5  # the others had made all by then
    assert prepare(videos, tmp_path / "killed", **chosen) == whole
    assert checksums(tmp_path / "killed") == checksums(tmp_path / "whole")
    assert not (tmp_path / "killed" / ".preparing").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path):
    """Records are written as they come: eight times the video needs no more memory."""
    peaks = []
    for frames in (500, 4000):
        folder = tmp_path / str(frames)
        (folder / "videos").mkdir(parents=True)
        (folder / "videos" / "long.mp4").write_bytes(encode_h264(numbered_frames(frames, size=128)))
        path = {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        subprocess.run([sys.executable, "-c", _PEAK, str(folder)], check=True, timeout=240, env=os.environ | path)
        peaks.append(int((folder / "peak").read_text()))
    assert peaks[1] < 1.15 * peaks[0] + 20_000
    assert peaks[1] < 500_000  # KiB; TensorFlow is not there


_PEAK = """
import sys
from prepared_sets import in_this_process
from vmae_jax.data.prepare import record, run, shards
from vmae_jax.data.prepare.inputs import Origin
folder = sys.argv[1]
settings = record.options(codec="jpeg", seconds=4)
layout = shards.layout(folder + "/out", name="videos", split="train", file_format="array_record")
in_this_process(run.Plan.of(Origin((folder + "/videos",)), layout, settings).jobs())
assert "tensorflow" not in sys.modules
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]  # KiB, since exec
open(folder + "/peak", "w").write(peak)
"""
