"""Frame samplers: in range, repeatable, spread as documented. Parity is in tests/parity."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmae_jax.data import clips
from vmae_jax.data.video import VideoInfo

SAMPLERS = [
    clips.dense(16, 4),
    clips.dense(8, 1),
    clips.dense_finetune(16, 4),
    clips.dense_finetune(5, 3, random=False),
    clips.uniform(16),
    clips.uniform(8, random=False),
    clips.multiview(16, 4, 5),
    clips.multiview(16, 1, 2, sparse=True),
    clips.multiview(4, 2, 1),
]


def info(num_frames):
    return VideoInfo(num_frames, 25.0, np.arange(num_frames) / 25, 8, 8)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_every_sampler_stays_in_the_video(sampler, num_frames, word):
    seed = np.array([word, 7], np.uint32)
    index = sampler(info(num_frames), seed)
    assert index.shape == (sampler.views, sampler.frames)
    assert np.issubdtype(index.dtype, np.integer)
    assert index.min() >= 0
    assert index.max() < num_frames
    assert (np.diff(index, axis=1) >= 0).all()
    np.testing.assert_array_equal(index, sampler(info(num_frames), seed))
    assert pickle.loads(pickle.dumps(sampler)) == sampler


def test_dense_takes_every_start_that_fits():
    starts = {int(clips.dense(16, 4)(info(70), np.array([k, 0], np.uint32))[0, 0]) for k in range(300)}
    assert starts == set(range(7))


def test_dense_is_evenly_strided_where_it_fits():
    for word in range(20):
        index = clips.dense(16, 4)(info(200), np.array([word, 1], np.uint32))[0]
        assert set(np.diff(index)) == {4}


@pytest.mark.parametrize("make", [clips.dense, clips.dense_finetune, clips.multiview])
def test_bad_arguments(make):
    with pytest.raises(ValueError, match="at least 1"):
        make(0, 4)
    with pytest.raises(ValueError, match="at least 1"):
        make(16, 0)
