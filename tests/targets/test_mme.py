"""Histograms of gradients and trajectories, the targets of MME, against loops and drawn motion."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.patches import Patch
from vmae_jax.targets.hog import hog
from vmae_jax.targets.trajectory import NEXT, trajectory

PATCH = Patch(2, 8, 8)
RAW = {"mean": (0.0,), "deviation": (1.0,)}


def every(batch, grid):
    return jnp.broadcast_to(jnp.arange(grid), (len(next(iter(batch.values()))), grid))


def by_loops(frame, cell, bins=9):
    """The histograms of a frame [h w c] in [0, 1], pixel by pixel."""
    h, w, channels = frame.shape
    found = np.zeros((h // cell, w // cell, channels, bins))
    wide = np.pad(frame, ((1, 1), (1, 1), (0, 0)), mode="edge")
    smooth = np.array([1, 2, 1])
    for y in range(h):
        for x in range(w):
            near = wide[y : y + 3, x : x + 3]
            across = (smooth[:, None] * (near[:, 2] - near[:, 0])).sum(axis=0)
            down = (smooth[:, None] * (near[2] - near[0])).sum(axis=0)
            for c in range(channels):
                place = np.arctan2(down[c], across[c]) % np.pi / np.pi * bins
                low = int(np.floor(place))
                strength = np.hypot(across[c], down[c]) / cell**2
                found[y // cell, x // cell, c, low % bins] += strength * (1 - place + low)
                found[y // cell, x // cell, c, (low + 1) % bins] += strength * (place - low)
    return found


def test_histograms_are_those_of_loops_over_pixels():
    """Of the last frame of each tubelet; tokens in order, and in each its cells, channels and bins."""
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    found = np.asarray(hog(**RAW)({"video": video}, jnp.array([[0, 3, 6], [1, 2, 7]]), PATCH))
    assert found.shape == (2, 3, 108)
    for row, tokens in enumerate(([0, 3, 6], [1, 2, 7])):
        for place, token in enumerate(tokens):
            t, y, x = np.unravel_index(token, (2, 2, 2))
            wanted = by_loops(video[row, 2 * t + 1] / 255.0, 4)[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            np.testing.assert_allclose(found[row, place], wanted.reshape(-1), atol=1e-5)


@pytest.mark.parametrize(("slope", "bin"), [((1, 0), 0), ((0, 1), 4.5), ((1, 1), 2.25), ((1, -1), 6.75), ((-1, 0), 0)])
def test_ramps_fill_the_bins_of_their_direction(slope, bin):  # noqa: A002
    """Also exactly horizontal ones, whose total is the strength of the gradient as that of the others."""
    y, x = np.mgrid[0:24, 0:24]
    frame = (128 + 3 * (slope[0] * (x - 12) + slope[1] * (y - 12))).astype(np.uint8)
    video = np.repeat(np.repeat(frame[None, None, :, :, None], 2, axis=1), 3, axis=-1)
    [token] = np.asarray(hog(**RAW)({"video": video}, jnp.array([[4]]), PATCH))[0]  # away from the border
    histogram = token.reshape(4, 3, 9)
    np.testing.assert_allclose(histogram.sum(axis=-1), 8 * 3 * np.hypot(*slope) / 255, rtol=1e-4)
    share = histogram[0, 0] / histogram[0, 0].sum()
    low, rest = int(bin), bin - int(bin)
    wanted = (1 - rest) * np.eye(9)[low] + rest * np.eye(9)[(low + 1) % 9]
    np.testing.assert_allclose(np.roll(share, 1), np.roll(wanted, 1), atol=1e-3)


def test_histograms_can_have_length_1():
    video = np.random.default_rng(0).integers(0, 256, (1, 2, 8, 8, 3), np.uint8)
    plain, unit = (np.asarray(hog(normalize=one)({"video": video}, jnp.array([[0]]), PATCH)) for one in (False, True))
    plain, unit = (one.reshape(4, 3, 9) for one in (plain, unit))
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=-1, keepdims=True), rtol=1e-3)


def flow_of(function, frames=8, side=24):
    """A batch of one clip whose flow at (x, y) is a function of these."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    flow = np.stack(np.broadcast_arrays(*function(x, y)), axis=-1)
    return {NEXT: np.broadcast_to(flow, (1, frames - 1, side, side, 2)).astype(np.float32)}


def moves(target, batch):
    """Values [slots y x l d points] of a grid of 4 x 3 x 3 tokens, and which count."""
    tokens = every(batch, 36)
    found = np.asarray(target(batch, tokens, PATCH))
    return found.reshape(4, 3, 3, 2, 2, 4), np.asarray(target.counted(batch, tokens, PATCH)).reshape(4, 3, 3)


def test_a_shift_is_its_flow_and_nothing_inside_of_a_patch():
    batch = flow_of(lambda x, y: (2 + 0 * x, 1 + 0 * y))
    found, counted = moves(trajectory(2, normalize=False), batch)
    np.testing.assert_allclose(found[..., 0, :], 0.1)
    np.testing.assert_allclose(found[..., 1, :], 0.05)
    assert counted[:3].all()  # the last slot has one more frame alone
    assert not counted[3].any()
    inside, _ = moves(trajectory(2), batch)
    np.testing.assert_allclose(inside, 0.0, atol=1e-6)


def test_a_zoom_takes_opposite_corners_apart():
    batch = flow_of(lambda x, y: (0.25 * (x - 12), 0.25 * (y - 12)))
    found, _ = moves(trajectory(2, still=0.0), batch)
    corners = found[0, 1, 1, 0]  # x and y of upper left, upper right, lower left, lower right
    np.testing.assert_allclose(corners, np.array([[-1, 1, -1, 1], [-1, -1, 1, 1]]) * np.sqrt(3) / 2, atol=1e-4)
    dull, _ = moves(trajectory(2, still=5.0), batch)
    np.testing.assert_allclose(dull[0, 1, 1, 0], corners * np.sqrt(1 / 3) / 5, atol=1e-4)


def test_points_follow_the_flow_where_it_has_taken_them():
    """One column sends points on to another, where the flow is another."""
    batch = flow_of(lambda x, y: (np.where(x < 8, 8.0, 1.0), 0 * y))
    found, _ = moves(trajectory(2, normalize=False), batch)
    np.testing.assert_allclose(found[0, :, 0, :, 0] * 20, np.broadcast_to([[8.0], [1.0]], (3, 2, 4)))
    far, _ = moves(trajectory(2, limit=4.0, normalize=False), batch)
    np.testing.assert_allclose(far[0, :, 0, :, 0], np.broadcast_to([[1.0], [0.25]], (3, 2, 4)))


def test_tokens_whose_points_all_leave_do_not_count():
    _, counted = moves(trajectory(2, normalize=False), flow_of(lambda x, y: (6 + 0 * x, 0 * y)))
    np.testing.assert_array_equal(counted[0], [[1, 1, 0]] * 3)  # 18 + 6 is outside, 10 + 6 + 6 is not
    _, counted = moves(trajectory(2), flow_of(lambda x, y: (100 + 0 * x, 0 * y)))
    assert not counted.any()


def test_a_still_clip_has_finite_targets():
    for still in (0.0, 0.5):
        found, _ = moves(trajectory(2, still=still), flow_of(lambda x, y: (0 * x, 0 * y)))
        np.testing.assert_array_equal(found, 0.0)


def test_a_clip_turned_round_in_time_has_other_trajectories():
    random = np.random.default_rng(0).normal(0, 2, (1, 7, 24, 24, 2)).astype(np.float32)
    one = trajectory(2)
    assert np.abs(moves(one, {NEXT: random})[0] - moves(one, {NEXT: -random[:, ::-1]})[0]).max() > 0.1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: hog(bins=1), "bins=1"),
        (lambda: hog(deviation=(0.0,)), "deviation must be above 0"),
        (lambda: trajectory(0), "steps=0"),
        (lambda: trajectory(points=1), "points=1"),
        (
            lambda: hog(cells=3)({"video": np.zeros((1, 2, 8, 8, 3), np.uint8)}, jnp.zeros((1, 1), int), PATCH),
            "3 cells",
        ),
        (
            lambda: hog(frame=2)({"video": np.zeros((1, 2, 8, 8, 3), np.uint8)}, jnp.zeros((1, 1), int), PATCH),
            "frame 2",
        ),
        (lambda: trajectory(points=3).paths(jnp.zeros((1, 1, 8, 8, 2)), PATCH), "3 points a side"),
    ],
)
def test_mistakes_in_targets_of_motion(make, words):
    with pytest.raises(ValueError, match=words):
        make()
