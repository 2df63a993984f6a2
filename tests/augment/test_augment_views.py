"""Small views of clips: where they are cut, and how they are scaled and mirrored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.augment.colors import jitter
from vmae_jax.augment.views import _scaled, views


def keys(b, seed=0):
    return jax.random.split(jax.random.key(seed), b)


def ramp(b=64):
    """Clips whose red is the column and whose green is the row; the second frame is darker."""
    row, column = np.mgrid[0:24, 0:40]
    picture = np.stack([column, row, np.zeros_like(row)], axis=-1)
    return np.broadcast_to(np.stack([4 * picture, 2 * picture])[None], (b, 2, 24, 40, 3)).astype(np.uint8)


def test_a_crop_is_linear_between_pixels():
    """By hand: 4 pixels from place 2 on become 2 (the mean of two and half of each neighbour), 8, or stay."""
    x = np.arange(10.0)
    np.testing.assert_allclose(_scaled(jnp.float32(2), jnp.float32(4), 10, 4) @ x, [2, 3, 4, 5], atol=1e-6)
    np.testing.assert_allclose(_scaled(jnp.float32(2), jnp.float32(4), 10, 2) @ x, [2.5, 4.5], atol=1e-6)
    np.testing.assert_allclose(_scaled(jnp.float32(2), jnp.float32(4), 10, 8) @ x, np.arange(8) / 2 + 1.75, atol=1e-6)
    # Antialiased: a view of a quarter of the size is the mean over a triangle 8 pixels wide.
    np.testing.assert_allclose(
        _scaled(jnp.float32(0), jnp.float32(8), 8, 2)[0] * 16,
        [5, 7, 7, 5, 3, 1, 0, 0] / (np.float64(28) / 16),
        atol=1e-5,
    )


def test_views_are_one_crop_of_all_frames():
    """Read from a ramp: area, shape and place of each crop, mirrored or not; the same in both frames."""
    one = views(1, 8, area=(0.1, 0.4), flip=0.5)
    found = np.asarray(one(jnp.asarray(ramp()), keys(64)))
    assert found.shape == (64, 2, 8, 8, 3)
    np.testing.assert_allclose(found[:, 0], 2 * found[:, 1], atol=1e-2)
    across, down = found[:, 0, 4, :, 0] / 4, found[:, 0, :, 4, 1] / 4
    x, y = ((side[:, 5] - side[:, 2]) / 3 * 8 for side in (across, down))  # away from the border, which is repeated
    mirrored = x < 0
    assert 0.3 < mirrored.mean() < 0.7
    share, shape = np.abs(x) * y / (24 * 40), np.abs(x) / y
    assert 0.08 < share.min() < 0.16 < 0.34 < share.max() < 0.42
    assert 0.7 < shape.min() < 0.85 < 1.2 < shape.max() < 1.4
    assert across.min() < 4 < 35 < across.max()
    again = np.asarray(one(jnp.asarray(ramp()), keys(64)))
    np.testing.assert_array_equal(found, again)


def test_colours_are_of_each_view_and_stay_in_range():
    clips = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 2, 16, 16, 3)), jnp.uint8)
    plain, changed = (views(1, 8, colors=colors)(clips, keys(4)) for colors in (None, jitter(probability=1.0)))
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 255
    assert (np.abs(np.asarray(plain - changed)).mean(axis=(1, 2, 3, 4)) > 1).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "count=0"),
        ({"area": (0.4, 0.1)}, "two ascending shares"),
        ({"ratio": (0.0, 1.0)}, "two ascending numbers above 0"),
        ({"flip": 1.5}, "a probability"),
    ],
)
def test_mistakes_in_views(options, words):
    with pytest.raises(ValueError, match=words):
        views(**options)
