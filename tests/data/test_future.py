"""Frames of the future: how far they are, and videos that are too short for them."""

import numpy as np
import pytest

from vmae_jax.data.future import future
from vmae_jax.data.video import VideoInfo


def drawn(count, **options):
    """The clips of 300 seeds of a video of so many frames, [300 sources + targets]."""
    info = VideoInfo(num_frames=count, rate=25.0, times=np.arange(count) / 25, height=8, width=8)
    sampler = future(**options)
    return np.concatenate([sampler(info, np.array([seed, 7], np.uint32)) for seed in range(300)])


def test_sources_are_consecutive_and_targets_at_every_distance():
    clips = drawn(80)
    assert clips.shape == (300, future().frames) == (300, 8)
    np.testing.assert_array_equal(np.diff(clips[:, :4], axis=1), 1)
    assert {*clips[:, 0].tolist()} == {*range(29)}  # 48 frames after the last source are still in the video
    gap = clips[:, 4:] - clips[:, 3:4]
    assert {*gap.ravel().tolist()} == {*range(4, 49)}
    assert np.abs(np.corrcoef(gap.T)[np.triu_indices(4, 1)]).max() < 0.2  # independent draws


@pytest.mark.parametrize(("count", "gaps"), [(20, {*range(4, 17)}), (6, {2}), (4, {0}), (1, {0})])
def test_a_short_video_has_the_largest_distances_that_fit(count, gaps):
    clips = drawn(count)
    assert clips.max() == count - 1
    assert {*(clips[:, 4:] - clips[:, 3:4]).ravel().tolist()} == gaps


def test_sources_at_a_stride():
    clips = drawn(40, sources=3, targets=1, gap=[2, 2], stride=5)
    np.testing.assert_array_equal(clips - clips[:, :1], np.tile([0, 5, 10, 12], (300, 1)))


@pytest.mark.parametrize("options", [{"sources": 0}, {"targets": 0}, {"stride": 0}, {"gap": [5, 4]}, {"gap": [4]}])
def test_mistakes_of_a_future(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        future(**options)
