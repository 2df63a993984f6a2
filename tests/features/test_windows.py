"""Sliding windows: the official starts, every window once, times that are the video's own."""

import numpy as np
import pytest
from numbered_videos import numbered_frames, write_video

from vmae_jax.data import sources
from vmae_jax.data.video import BadVideo, VideoInfo
from vmae_jax.features.windows import Windows, _chunk, chunks


def video(frames, rate=25.0):
    return VideoInfo(frames, rate, np.arange(frames) / rate, 32, 32)


@pytest.mark.parametrize("frames", [16, 17, 40, 63, 64])
@pytest.mark.parametrize("stride", [4, 16])
def test_starts_are_those_of_the_official_script(frames, stride):
    windows = Windows(frames=16, step=1, stride=stride, limit=99)
    starts = list(range(0, frames - 15, stride))
    found, seconds = windows.of_chunk(0, video(frames))
    np.testing.assert_array_equal(windows.starts(frames), starts)
    np.testing.assert_array_equal(found[:, 0], starts)
    np.testing.assert_array_equal(found[:, -1], np.add(starts, 15))
    np.testing.assert_allclose(seconds, found[:, [0, -1]] / 25)


def test_a_short_video_is_one_window_that_holds_its_last_frame():
    windows = Windows(frames=4, step=2, stride=3, limit=9, tail="end")
    np.testing.assert_array_equal(windows.of_chunk(0, video(5))[0], [[0, 2, 4, 4]])
    assert windows.uncovered(video(5)) == 0


@pytest.mark.parametrize("frames", range(1, 40))
@pytest.mark.parametrize(("step", "stride"), [(1, 4), (2, 8), (2, 3)])
def test_a_tail_is_covered_or_counted(frames, step, stride):
    """A window covers `frames * step` frames from its start: those past the last one are its tail."""
    drop, end = (Windows(frames=4, step=step, stride=stride, limit=99, tail=tail) for tail in ("drop", "end"))
    kept, whole = (one.of_chunk(0, video(frames))[0] for one in (drop, end))
    left = frames - (kept[-1, 0] + 4 * step)
    assert drop.uncovered(video(frames)) == max(left, 0)
    assert end.uncovered(video(frames)) == 0
    np.testing.assert_array_equal(whole[: len(kept)], kept)
    assert len(whole) == len(kept) + (left > 0)
    if left > 0:
        np.testing.assert_array_equal(whole[-1], frames - 1 - np.arange(4)[::-1] * step)


def test_windows_at_a_rate_last_equally_long_whatever_the_video_s():
    """Two videos, 6 and 120 frames a second, which count-based windows make 20 times as long or short."""
    windows = Windows(frames=4, step=1, stride=4, limit=99, fps=8.0)
    slow, fast = windows.of_chunk(0, video(36, 6.0)), windows.of_chunk(0, video(720, 120.0))
    np.testing.assert_allclose(slow[1], fast[1])
    np.testing.assert_allclose(slow[1][:, 1] - slow[1][:, 0], 3 / 8)
    assert len(slow[1]) == 12  # six seconds
    np.testing.assert_array_equal(fast[0], np.arange(48).reshape(12, 4) * 15)
    np.testing.assert_array_equal(slow[0][:2], [[0, 0, 1, 2], [3, 3, 4, 5]])
    counted = Windows(frames=4, step=1, stride=4, limit=99)
    assert [np.diff(counted.of_chunk(0, video(720, rate))[1])[0, 0] for rate in (6.0, 120.0)] == [0.5, 0.025]


def test_a_rate_follows_the_time_stamps_and_not_the_mean():
    """Ten frames in a second, then one in two: a sample shows what a player shows at its moment."""
    times = np.array([*np.arange(10) / 10, 1.0, 3.0])
    info = VideoInfo(len(times), 11 / 3, times, 32, 32)
    np.testing.assert_array_equal(Windows(4, 1, 4, 9, fps=2.0).shown(info), [0, 5, 10, 10, 10, 10, 11])
    rounded = np.round(np.arange(24) / 24, 3)  # as Matroska keeps them
    np.testing.assert_array_equal(Windows(4, 1, 4, 9, fps=24.0).shown(VideoInfo(24, 24.0, rounded, 32, 32)), range(24))


def test_every_window_of_every_video_comes_once_and_broken_ones_are_reported(tmp_path, monkeypatch):
    """Videos are opened in the decoding processes alone."""
    monkeypatch.setattr("vmae_jax.data.decode.open_encoded", None)
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


@pytest.mark.parametrize("counts", [(0, 3, 0), (5, 3, 0), (3, 2, 0), (2, 10**9, 0), (-1, 3, 0)])
def test_counts_that_cannot_be_are_a_bad_video(counts):
    """A decoder that was taken over gives wrong numbers at most."""
    arrays = {
        "video": np.zeros((1, 4, 8, 8, 3), np.uint8), "windows_counts": np.array([counts]),
        "windows_frames": np.arange(16).reshape(1, 4, 4), "windows_seconds": np.zeros((1, 4, 2)),
    }  # fmt: skip
    with pytest.raises(BadVideo, match="impossible windows"):
        _chunk(0, 0, arrays, 4, None)
