"""Sliding windows: the official starts, every window once, times that are the video's own."""

import numpy as np
import pytest
from numbered_videos import numbered_frames, write_video

from vmae_jax.data import sources
from vmae_jax.data.windows import Windows, chunks


@pytest.mark.parametrize("frames", [16, 17, 40, 63, 64])
@pytest.mark.parametrize("stride", [4, 16])
def test_starts_are_those_of_the_official_script(frames, stride):
    windows = Windows(frames=16, step=1, stride=stride, limit=99)
    starts = list(range(0, frames - 15, stride))
    assert windows.count(frames) == len(starts)
    np.testing.assert_array_equal(windows.at(np.arange(len(starts)), frames)[:, 0], starts)
    np.testing.assert_array_equal(windows.at(np.arange(len(starts)), frames)[:, -1], np.add(starts, 15))


def test_a_short_video_is_one_window_that_holds_its_last_frame():
    windows = Windows(frames=4, step=2, stride=3, limit=9)
    assert windows.count(5) == 1
    np.testing.assert_array_equal(windows.at(np.arange(1), 5), [[0, 2, 4, 4]])


def test_every_window_of_every_video_comes_once_and_broken_ones_are_told(tmp_path):
    counts = {"a": 20, "c": 3}
    for name, count in counts.items():
        (tmp_path / f"{name}.mp4").write_bytes(write_video(numbered_frames(count)))
    (tmp_path / "b.mp4").write_bytes(b"no video at all")
    source = sources.paths([str(tmp_path)]).open()
    windows = Windows(frames=4, step=1, stride=3, limit=2)
    seen = {0: [], 1: [], 2: []}
    for chunk in chunks(source, range(3), windows, size=16, antialias=True):
        if chunk.clips is None:
            seen[chunk.video] = chunk.reason
            continue
        assert chunk.clips.shape[1:] == (4, 16, 16, 3)
        assert chunk.clips.dtype == np.uint8
        assert len(chunk.clips) == len(chunk.frames) == len(chunk.seconds) <= 2
        for clip, ends, seconds in zip(chunk.clips, chunk.frames, chunk.seconds, strict=True):
            numbers = np.round((clip[:, :, 2].mean((1, 2)) - 4) / 5).astype(int)
            assert numbers[[0, -1]].tolist() == ends.tolist()
            np.testing.assert_allclose(seconds, ends / 25, atol=1e-3)
            seen[chunk.video].append(int(ends[0]))
    assert seen[0] == list(range(0, 17, 3))
    assert "no readable video" in seen[1]
    assert seen[2] == [0]
