"""Weights for other sizes: nothing changes at the native one, and the claims of each rule hold."""

import numpy as np
import pytest

from vmae_jax.types import Grid
from vmae_jax.weights.layouts import resize
from vmae_jax.weights.layouts.rules import MismatchError

RNG = np.random.default_rng(0)
KERNEL = RNG.standard_normal((5, 3, 2, 4, 4)).astype(np.float32)


def linear(old, new):
    """Linear resampling as a matrix [new old]: centres of pixels on one another, edges repeated."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    return np.stack([np.interp(centres, np.arange(old), unit) for unit in np.eye(old)], axis=1)


def test_nothing_changes_at_the_native_size():
    table = RNG.standard_normal((8, 6)).astype(np.float32)
    assert resize.positions(table, Grid(2, 2, 2), Grid(2, 2, 2)) is table
    np.testing.assert_array_equal(resize.embedding(KERNEL, (2, 4, 4), 3), KERNEL)
    kernel, bias = RNG.standard_normal((96, 6)), RNG.standard_normal(96)
    same = resize.head(kernel, bias, (2, 4, 4, 3), (2, 4, 4, 3))
    assert same[0] is kernel
    assert same[1] is bias


def test_positions_one_axis_at_a_time():
    table = RNG.standard_normal((2 * 3 * 3, 6)).astype(np.float32)
    longer = resize.positions(table, Grid(2, 3, 3), Grid(4, 3, 3)).reshape(4, 9, 6)
    np.testing.assert_allclose(longer[1], (0.75 * table[:9] + 0.25 * table[9:]), atol=1e-6)  # linear in time
    larger = resize.positions(np.ones((18, 6), np.float32), Grid(2, 3, 3), Grid(2, 5, 7))
    np.testing.assert_allclose(larger, 1.0, atol=1e-6)  # weights sum to one
    with pytest.raises(MismatchError, match="18 positions is not that of a grid of 2x2x2"):
        resize.positions(table, Grid(2, 2, 2), Grid(2, 4, 4))


@pytest.mark.torch
def test_positions_are_pytorchs_bicubic():
    torch = pytest.importorskip("torch")
    table = RNG.standard_normal((14 * 14, 6)).astype(np.float32)
    picture = torch.from_numpy(table).reshape(1, 14, 14, 6).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(picture, size=(20, 9), mode="bicubic", align_corners=False)
    ours = resize.positions(table, Grid(1, 14, 14), Grid(1, 20, 9))
    np.testing.assert_allclose(ours, theirs[0].permute(1, 2, 0).reshape(-1, 6).numpy(), atol=1e-5)


@pytest.mark.parametrize("cube", [(2, 8, 8), (4, 4, 4), (4, 6, 7)])
def test_a_resampled_cube_has_the_embedding_it_had(cube):
    video = RNG.standard_normal((3, 2, 4, 4))
    matrices = [linear(a, b) for a, b in zip((2, 4, 4), cube)]
    resampled = np.einsum("at,by,ex,ctyx->cabe", *matrices, video)
    before = np.einsum("dctyx,ctyx->d", KERNEL, video)
    after = np.einsum("dctyx,ctyx->d", resize.embedding(KERNEL, cube), resampled)
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_a_smaller_cube_is_the_least_squares_one():
    small = resize.embedding(KERNEL, (2, 2, 2)).astype(np.float64)
    matrix = linear(4, 2)
    back = np.einsum("by,ex,dctbe->dctyx", matrix, matrix, small)
    residual = back - KERNEL
    # Nothing in the reach of small cubes is left of the residual.
    np.testing.assert_allclose(np.einsum("by,ex,dctyx->dctbe", matrix, matrix, residual), 0, atol=1e-5)


def test_channels():
    grey = RNG.standard_normal((1, 2, 4, 4))
    rgb = np.einsum("dctyx,ctyx->d", KERNEL, np.repeat(grey, 3, axis=0))
    one = resize.embedding(KERNEL, (2, 4, 4), 1)
    np.testing.assert_allclose(np.einsum("dctyx,ctyx->d", one, grey), rgb, atol=1e-4)
    for n in (2, 4, 6):
        more = resize.embedding(KERNEL, (2, 4, 4), n)
        assert more.shape[1] == n
        np.testing.assert_allclose(more[:, :2], KERNEL[:, :2] * 3 / n, rtol=1e-6)
    kept = resize.embedding(KERNEL, (2, 4, 4), 4, rule="keep")
    np.testing.assert_array_equal(kept[:, :3], KERNEL)
    np.testing.assert_array_equal(kept[:, 3], 0)
    with pytest.raises(MismatchError, match="at least the 3 channels"):
        resize.embedding(KERNEL, (2, 4, 4), 2, rule="keep")
    with pytest.raises(MismatchError, match="'odd' is not known: cycle or keep"):
        resize.embedding(KERNEL, (2, 4, 4), 4, rule="odd")


def test_the_head_predicts_a_resampled_cube():
    kernel, bias = RNG.standard_normal((2 * 4 * 4 * 3, 6)), RNG.standard_normal(96)
    x = RNG.standard_normal(6)
    bigger = resize.head(kernel, bias, (2, 4, 4, 3), (2, 8, 8, 3))
    matrix = linear(4, 8)
    expected = np.einsum("by,ex,tyxc->tbec", matrix, matrix, (kernel @ x + bias).reshape(2, 4, 4, 3))
    np.testing.assert_allclose((bigger[0] @ x + bigger[1]).reshape(2, 8, 8, 3), expected, atol=1e-4)
    assert resize.head(kernel, bias, (2, 4, 4, 3), (2, 4, 4, 6))[0].shape == (192, 6)
    assert resize.head(kernel, bias, (2, 4, 4, 3), (2, 4, 4, 1))[1].shape == (32,)


def test_inflation():
    image = RNG.standard_normal((5, 3, 4, 4)).astype(np.float32)
    picture = RNG.standard_normal((3, 4, 4))
    still = np.repeat(picture[:, None], 2, axis=1)
    for rule in ("average", "central"):
        inflated = resize.inflate(image, 2, rule)
        flat = np.einsum("dcyx,cyx->d", image, picture)
        np.testing.assert_allclose(np.einsum("dctyx,ctyx->d", inflated, still), flat, atol=1e-4)
    assert not resize.inflate(image, 2, "central")[:, :, 0].any()
    with pytest.raises(MismatchError, match="inflation 'mean' is not known"):
        resize.inflate(image, 2, "mean")
