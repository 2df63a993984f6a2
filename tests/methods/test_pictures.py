"""Pictures of a reconstruction, cube by cube, against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.methods.pictures import reconstruction
from vmae_jax.patches import Patch
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Grid, MaskPlan

GRID, PATCH = Grid(2, 2, 3), Patch(1, 2, 2)
VIDEO = np.random.default_rng(0).integers(30, 220, (1, 2, 4, 6, 3), np.uint8)
VISIBLE, DECODE, UNUSED = [0, 4, 11], [1, 2, 8, 10], [3, 5, 6, 7, 9]
MASKS = MaskPlan(jnp.array([VISIBLE]), jnp.array([DECODE]), jnp.ones((1, 4)))


def place(token):
    return np.array(np.unravel_index(token, (GRID.t, GRID.h, GRID.w)))


def cube(video, token):
    """Return the pixels of a cube, [pixels c]."""
    t, h, w = place(token)
    return np.asarray(video)[0, t, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2].reshape(-1, 3)


def of_the_visible(token):
    """Return mean and deviation of the visible cubes, each counted by exp(-d²/2)."""
    cubes = [cube(VIDEO, one) / 255 for one in VISIBLE]
    weight = np.array([np.exp(-0.5 * ((place(token) - place(one)) ** 2).sum()) for one in VISIBLE])
    weight /= weight.sum()
    return weight @ [c.mean(0) for c in cubes], weight @ [c.std(0, ddof=1) for c in cubes]


def rows(target, prediction):
    made = reconstruction(jnp.asarray(VIDEO), MASKS, jnp.full((1, 4, 12), prediction), target, GRID, PATCH)
    return made.borrowed, made.rows


@pytest.mark.parametrize("prediction", [0.0, 0.5, -0.25])
def test_normalised_predictions_take_statistics_of_the_truth_or_of_visible_cubes_near_by(prediction):
    [borrowing], found = rows(pixels(), prediction)
    assert list(found) == ["original", "masked", borrowing, "reconstructed, mean and std from visible cubes"]
    for token in DECODE:
        truth = cube(VIDEO, token) / 255
        known = {borrowing: (truth.mean(0), truth.std(0, ddof=1)), list(found)[3]: of_the_visible(token)}
        for name, (mean, deviation) in known.items():
            wanted = 255 * np.clip(mean + prediction * deviation, 0, 1)
            np.testing.assert_allclose(cube(found[name], token), np.broadcast_to(wanted, (4, 3)), atol=0.51)


def test_raw_predictions_need_no_statistics():
    borrowed, found = rows(pixels(False, mean=0.45, deviation=0.225), 1.0)
    assert borrowed == ()
    assert list(found) == ["original", "masked", "reconstructed"]
    for token in DECODE:
        np.testing.assert_array_equal(cube(found["reconstructed"], token), round(255 * 0.675))


def test_what_is_not_decoded_is_grey_and_what_is_visible_is_as_it_was():
    _, found = rows(pixels(), 0.0)
    np.testing.assert_array_equal(found.pop("original"), VIDEO)
    for name, row in found.items():
        for token in VISIBLE:
            np.testing.assert_array_equal(cube(row, token), cube(VIDEO, token))
        for token in UNUSED + DECODE * (name == "masked"):
            np.testing.assert_array_equal(cube(row, token), 128)
