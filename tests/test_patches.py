"""Cubes and videos, there and back."""

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from vmae_jax.patches import Patch, gather_cubes, grid_of, patchify, unpatchify

small = st.integers(1, 3)


@settings(max_examples=20, deadline=None)
@given(small, small, small, small, small, small, st.sampled_from([1, 3]))
def test_there_and_back(t, h, w, pt, ph, pw, c):
    patch = Patch(pt, ph, pw)
    shape = (2, t * pt, h * ph, w * pw, c)
    video = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    cubes = patchify(video, patch)
    assert cubes.shape == (2, t * h * w, pt * ph * pw * c)
    assert cubes.dtype == jnp.uint8
    np.testing.assert_array_equal(unpatchify(cubes, grid_of(shape, patch), patch), video)


def test_order_of_tokens_and_pixels():
    t, h, w, c = 4, 4, 6, 3
    video = np.arange(t * h * w * c, dtype=np.int32).reshape(1, t, h, w, c)
    cubes = np.asarray(patchify(video, Patch(2, 2, 3)))
    # token 1*2*2 + 1*2 + 0 is slot 1, row 1, column 0; its pixels run over t, y, x, c
    np.testing.assert_array_equal(cubes[0, 6], video[0, 2:4, 2:4, 0:3].reshape(-1))


def test_gather_takes_the_named_cubes_of_each_row():
    video = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 4, 3), np.uint8)
    index = jnp.asarray([[0, 7], [3, 4]])
    taken = np.asarray(gather_cubes(video, index, Patch(2, 2, 2)))
    cubes = np.asarray(patchify(video, Patch(2, 2, 2)))
    for row in range(2):
        np.testing.assert_array_equal(taken[row], cubes[row, np.asarray(index[row])])


def test_a_video_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="does not divide into cubes of 2x16x16"):
        grid_of((1, 16, 224, 220, 3), Patch(2, 16, 16))
