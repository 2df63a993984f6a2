"""Masks that follow captions: how many tokens, which, ties, other grids, and the opposite ranking."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.masking.core import plan
from vmae_jax.masking.text_guided import SIMILARITY, text_guided
from vmae_jax.types import Grid

GRID = Grid(8, 14, 14)


def seen(similar, *, grid=GRID, seed=0, **options):
    """Which tokens are visible, [b t n]."""
    keys = jax.random.split(jax.random.key(seed), len(similar))
    made = plan(keys, {SIMILARITY: similar}, grid, text_guided(**options))
    out = np.zeros((len(similar), grid.size), bool)
    np.put_along_axis(out, np.asarray(made.visible), True, axis=1)
    return out.reshape(-1, grid.t, grid.slot)


def random(rows=3, frames=16, side=14):
    return np.random.default_rng(0).normal(size=(rows, frames, side, side)).astype(np.float32)


def test_every_slot_hides_the_117_most_similar_tokens():
    similar = random()
    masks = seen(similar)
    np.testing.assert_array_equal(masks.sum(2), 79)
    assert text_guided().keep(GRID) == 632
    mean = similar.reshape(3, 8, 2, 196).mean(2)
    for hidden, values in zip(~masks.reshape(-1, 196), mean.reshape(-1, 196), strict=True):
        assert set(np.flatnonzero(hidden)) == set(np.argsort(values)[-117:])


def test_the_least_similar_are_the_opposite_ranking():
    """What one hides is what the other shows, where the shares are complementary."""
    similar = random(frames=8)
    np.testing.assert_array_equal(seen(similar, ratio=0.25), ~seen(similar, ratio=0.75, least=True))


def test_of_equal_tokens_a_tube_is_drawn():
    masks = seen(np.zeros((4, 16, 14, 14), np.float32))
    np.testing.assert_array_equal(masks, np.repeat(masks[:, :1], 8, axis=1))
    assert (masks[0] != masks[1]).any()
    assert (seen(np.zeros((4, 16, 14, 14), np.float32), seed=1) != masks).any()


def test_a_coarse_grid_is_interpolated_to_the_tokens():
    """Similarities that grow to the right and downwards do so on a finer grid as well."""
    coarse = np.add.outer(np.arange(7.0), np.arange(7.0)).astype(np.float32)
    masks = seen(np.broadcast_to(coarse, (1, 16, 7, 7)), ratio=0.5)[0, 0].reshape(14, 14)
    places = np.add.outer(np.arange(14), np.arange(14))
    assert places[masks].max() <= places[~masks].min() + 1
    np.testing.assert_array_equal(masks[0], places[0] < 13)


def test_the_mask_has_no_gradient():
    keys = jax.random.split(jax.random.key(0), 1)
    score = lambda similar: text_guided(0.5).score(keys, {SIMILARITY: similar}, Grid(2, 4, 4)).sum()  # noqa: E731
    np.testing.assert_array_equal(jax.grad(score)(jnp.asarray(random(1, 4, 4))), 0)


def test_mistakes():
    with pytest.raises(ValueError, match="a mask ratio must be in"):
        text_guided(1.0)
    with pytest.raises(ValueError, match="similarities of 3 frames do not divide into 8 slots"):
        seen(random(1, 3))
