"""The order: each video once an epoch, in an order of its own, from any position at once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmae_jax.data.order import apart, clip_seeds, fold, kept, past, video_at
from vmae_jax.data.tf import tensorflow


def order(positions, **options):
    return video_at(tensorflow().constant(positions, "int64"), **options).numpy()


def one_by_one(positions, **options):
    tf = tensorflow()
    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(positions, tf.int64))
    return [int(x) for x in dataset.map(lambda p: video_at(p, **options)).as_numpy_iterator()]


@pytest.mark.parametrize("videos", [1, 2, 7, 100])
def test_each_video_once_an_epoch(videos):
    epochs = [one_by_one(range(e * videos, (e + 1) * videos), videos=videos, seed=3) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(videos))
    if videos == 100:
        assert epochs[0] != epochs[1] != epochs[2]
        assert epochs[0] != one_by_one(range(videos), videos=videos, seed=4)


def test_eager_and_in_the_graph_agree_at_any_position():
    positions = [0, 5, 10**12, 10**12 + 1]
    graph = one_by_one(positions, videos=1000, seed=9)
    assert graph == [int(order(p, videos=1000, seed=9)) for p in positions]


def test_unshuffled_is_the_sources_order():
    assert one_by_one(range(8), videos=5, seed=0, shuffle=False) == [0, 1, 2, 3, 4, 0, 1, 2]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**63), st.integers(0, 2**40), st.integers(1, 8))
def test_seeds_of_clips_are_a_function_of_seed_position_and_clip(seed, position, clips):
    seeds = clip_seeds(seed, position, clips)
    assert seeds.shape == (clips, 2)
    assert seeds.dtype == np.uint32
    np.testing.assert_array_equal(seeds[:1], clip_seeds(seed, position, 1))


def test_seeds_differ_and_their_bits_are_fair():
    words = [fold(seed, position, clip) for seed in range(4) for position in range(200) for clip in range(-1, 4)]
    assert len(set(words)) == len(words)
    bits = np.array([[word >> bit & 1 for bit in range(64)] for word in words])
    assert np.abs(bits.mean(0) - 0.5).max() < 0.04
    assert fold(1, 2, 3) != fold(1, 3, 2)


WINDOWS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), max_size=5)


@settings(max_examples=100, deadline=None)
@given(WINDOWS)
def test_examples_have_the_positions_in_no_window_in_order(pairs):
    """Windows in any order, that may overlap."""
    windows = [(first, first + length) for first, length in pairs]
    left = (at for at in itertools.count() if not any(first <= at < last for first, last in windows))
    expected = [next(left) for _ in range(60)]
    assert [past(number, apart(windows)) for number in range(60)] == expected
    in_graph = past(tensorflow().range(60, dtype="int64"), apart(windows))
    assert in_graph.numpy().tolist() == expected
    for position in range(60):
        assert kept(position, apart(windows)) == sum(at < position for at in expected)
