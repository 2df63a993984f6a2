"""The mask that a teacher's attention draws: counts of each slot, and how often a token is visible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.masking.attention_guided import attention_guided
from vmae_jax.masking.core import plan
from vmae_jax.types import Grid

FULL = Grid(8, 14, 14)
ROWS = 4000


def visible(attention, grid, ratio):
    keys = jax.random.split(jax.random.key(0), len(attention))
    made = plan(keys, {"attention": attention}, grid, attention_guided(ratio))
    found = np.zeros((len(attention), grid.size), bool)
    np.put_along_axis(found, np.asarray(made.visible), True, axis=1)
    return found


def test_each_frame_has_40_visible_tokens():
    attention = jax.random.uniform(jax.random.key(1), (3, FULL.size)) ** 8
    attention = attention.at[0].set(0.0)  # nothing is attended to
    found = visible(attention, FULL, 0.8)
    np.testing.assert_array_equal(found.reshape(3, 8, 196).sum(-1), 40)
    assert attention_guided(0.8).keep(FULL) == 320
    assert not np.array_equal(found[1], found[2])


def test_tokens_are_visible_as_often_as_a_draw_without_replacement_has_them():
    """Two of four tokens: the probabilities by hand, and twice the attention changes nothing."""
    weights, grid = np.array([0.6, 0.2, 0.15, 0.05]), Grid(1, 2, 2)
    want = weights.copy()
    for first in range(4):
        rest = np.delete(np.arange(4), first)
        want[rest] += weights[first] * weights[rest] / weights[rest].sum()
    attention = jnp.asarray(np.tile(weights, (ROWS, 1)), jnp.float32)
    found = visible(attention, grid, 0.5)
    np.testing.assert_allclose(found.mean(axis=0), want, atol=0.03)
    np.testing.assert_array_equal(visible(2 * attention, grid, 0.5), found)


def test_a_ratio_of_one_is_refused():
    with pytest.raises(ValueError, match="mask ratio"):
        attention_guided(1.0)
