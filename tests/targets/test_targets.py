"""Targets and penalties against their formulas, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.patches import Patch
from vmae_jax.targets.core import Objective, cosine, l1, l2, objective, smooth_l1
from vmae_jax.targets.motion import difference
from vmae_jax.targets.pixels import pixels, to_unit

PATCH = Patch(2, 4, 4)
VIDEO = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8, 3), np.uint8)  # a grid of 2 x 2 x 2 cubes
DECODE = jnp.array([[0, 3, 7], [1, 2, 6]], jnp.int32)


def cube(row: int, token: int) -> np.ndarray:
    """Return the pixels of a cube, [t h w c], as numbers in [0, 1]."""
    t, h, w = np.unravel_index(token, (2, 2, 2))
    return VIDEO[row, 2 * t : 2 * t + 2, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4] / 255.0


CUBES = np.stack(
    [[cube(row, token) for token in tokens] for row, tokens in enumerate(DECODE.tolist())]
)  # [b k t h w c]


def test_raw_targets_are_the_pixels_of_the_decoded_cubes_normalised_by_the_data_set():
    found = pixels(False)({"video": VIDEO}, DECODE, PATCH)
    np.testing.assert_allclose(found, CUBES.reshape(2, 3, -1), atol=1e-6)
    found = pixels(False, mean=0.45, deviation=0.225)({"video": VIDEO}, DECODE, PATCH)
    np.testing.assert_allclose(found, (CUBES.reshape(2, 3, -1) - 0.45) / 0.225, atol=1e-5)


def test_normalised_targets_use_the_unbiased_deviation_of_each_cube_and_channel():
    mean, deviation = CUBES.mean((2, 3, 4), keepdims=True), CUBES.std((2, 3, 4), keepdims=True, ddof=1)
    found = pixels()({"video": VIDEO}, DECODE, PATCH)
    np.testing.assert_allclose(found, ((CUBES - mean) / (deviation + 1e-6)).reshape(2, 3, -1), atol=1e-5)
    ours = pixels().statistics(jnp.asarray(CUBES.reshape(2, 3, -1), jnp.float32), 3)
    for one, other in zip(ours, (mean, deviation + 1e-6), strict=True):
        np.testing.assert_allclose(one, other.reshape(2, 3, 1, 3), rtol=1e-5)


def test_a_cube_of_one_colour_is_zero_and_not_infinite():
    still = np.full_like(VIDEO, 77)
    np.testing.assert_allclose(pixels()({"video": still}, DECODE, PATCH), 0.0, atol=0.1)
    _, deviation = pixels().statistics(to_unit(np.full((1, 1, 12), 77, np.uint8)), 3)
    np.testing.assert_allclose(deviation, 1e-6, rtol=1e-3)


@pytest.mark.parametrize("target", [pixels(), pixels(False), pixels(False, mean=0.45, deviation=0.225)])
def test_rendering_is_the_way_back_and_stays_within_a_picture(target):
    cubes = jnp.asarray(CUBES.reshape(2, 3, -1), jnp.float32)
    values, known = target({"video": VIDEO}, DECODE, PATCH), target.statistics(cubes, 3)
    np.testing.assert_allclose(target.render(values, *known), cubes, atol=1e-5)
    assert float(target.render(values + 100, *known).min()) == 1.0
    assert float(target.render(values - 100, *known).max()) == 0.0


PREDICTION, TARGET = np.array([[[1.0, -2.0], [0.5, 0.0]]]), np.array([[[0.0, 1.0], [0.25, 0.0]]])  # [b k p]


@pytest.mark.parametrize(
    ("penalty", "values"),
    [
        (l2(), [[[1.0, 9.0], [0.0625, 0.0]]]),
        (l1(), [[[1.0, 3.0], [0.25, 0.0]]]),
        (smooth_l1(), [[[0.5, 2.5], [0.03125, 0.0]]]),
        (smooth_l1(0.5), [[[0.75, 2.75], [0.0625, 0.0]]]),
        (smooth_l1(4.0), [[[0.125, 1.125], [0.0078125, 0.0]]]),
    ],
)
def test_penalties(penalty, values):
    np.testing.assert_array_equal(penalty(jnp.asarray(PREDICTION), jnp.asarray(TARGET)), values)
    error = Objective(pixels(), penalty=penalty).error(jnp.asarray(PREDICTION, "bfloat16"), jnp.asarray(TARGET))
    assert error.dtype == jnp.float32
    np.testing.assert_array_equal(error, np.mean(values, axis=-1))


def test_the_cosine_is_of_directions_alone():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 3, 5, 8)).astype(np.float32)
    cosine_of = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
    np.testing.assert_allclose(cosine()(one, other).mean(-1), 2 - 2 * cosine_of, rtol=1e-5)
    np.testing.assert_allclose(cosine()(one, 7 * one), 0.0, atol=1e-6)
    gradient = jax.grad(lambda x: cosine()(x, other).mean())(jnp.zeros_like(one))
    assert np.isfinite(gradient).all()


def test_an_objective_weighs_one_and_squares_by_default():
    made = objective(pixels())
    assert made.weight == 1.0
    np.testing.assert_array_equal(made.error(jnp.asarray(PREDICTION), jnp.asarray(TARGET)), [[5.0, 0.03125]])
    made = objective(pixels(), 0.0, l1())
    assert made.weight == 0.0
    np.testing.assert_array_equal(made.error(jnp.asarray(PREDICTION), jnp.asarray(TARGET)), [[2.0, 0.125]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: objective(pixels(), -1e-9), "must not be negative"),
        (lambda: smooth_l1(0.0), "beta > 0"),
        (lambda: pixels(False, deviation=0.0), "deviation must be above 0.*got 0.0"),
    ],
)
def test_numbers_that_make_no_target(make, message):
    with pytest.raises(ValueError, match=message):
        make()


MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def test_joint_targets_have_one_mean_and_variance_for_all_channels_of_a_scaled_cube():
    scaled = ((CUBES - MEAN) / STD).reshape(2, 3, -1)
    expected = (scaled - scaled.mean(-1, keepdims=True)) / np.sqrt(scaled.var(-1, keepdims=True, ddof=1) + 1e-6)
    target = pixels(joint=True, mean=list(MEAN), deviation=list(STD))
    found = target({"video": VIDEO}, DECODE, PATCH)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    known = target.statistics(target.scaled(jnp.asarray(CUBES.reshape(2, 3, -1) * 255), 3), 3)
    np.testing.assert_allclose(target.render(found, *known), CUBES.reshape(2, 3, -1), atol=1e-5)


def test_a_target_of_some_frames_is_that_of_a_video_of_these_frames():
    """Two of four frames: the first and the last, one in each of the two slots."""
    found = pixels(frames=2)({"video": VIDEO}, DECODE, PATCH)
    expected = pixels()({"video": VIDEO[:, [0, 3]]}, DECODE, PATCH._replace(t=1))
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (2, 3, 48)


@pytest.mark.parametrize("frames", [3, 8])
def test_frames_that_the_slots_of_the_grid_do_not_divide_are_refused(frames):
    with pytest.raises(ValueError, match=rf"pixels: {frames} frames of 4 do not divide into the 2 slots of the grid"):
        pixels(frames=frames)({"video": VIDEO}, DECODE, PATCH)


@pytest.mark.parametrize("options", [{"deviation": 0.0}, {"deviation": [0.2, 0.0, 0.2]}, {"frames": 1}])
def test_figures_that_no_target_has_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        pixels(**options)


def test_the_difference_of_a_still_clip_is_zero_and_of_a_brighter_frame_its_step():
    still = np.full_like(VIDEO, 77)
    np.testing.assert_array_equal(difference()({"video": still}, DECODE, PATCH), 0.0)
    brighter = still.copy()
    brighter[:, 1::2] += 51  # the second frame of every cube
    found = difference()({"video": brighter}, DECODE, PATCH)
    assert found.shape == (2, 3, 48)
    np.testing.assert_allclose(found, 0.2, atol=1e-6)
    np.testing.assert_array_equal(difference()({"video": brighter[:, [1, 0, 3, 2]]}, DECODE, PATCH), found)


def test_the_difference_of_frames_by_hand():
    change = np.abs(CUBES[:, :, 1] - CUBES[:, :, 0]).reshape(2, 3, -1)
    np.testing.assert_allclose(difference()({"video": VIDEO}, DECODE, PATCH), change, atol=1e-6)
    scaled = (change - change.mean(-1, keepdims=True)) / np.sqrt(change.var(-1, keepdims=True, ddof=1) + 1e-6)
    np.testing.assert_allclose(difference(normalize=True)({"video": VIDEO}, DECODE, PATCH), scaled, atol=1e-4)
    with pytest.raises(ValueError, match="gap=2 must be less than the 2 frames of a cube"):
        difference(gap=2)({"video": VIDEO}, DECODE, PATCH)
    with pytest.raises(ValueError, match="gap=0: at least 1"):
        difference(gap=0)
