"""The losses of predictors that look at nothing: by hand, and beside the loss of a latent method."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.methods.baselines import loss_of, mean_targets, nearest_visible
from vmae_jax.targets.core import l1, l2
from vmae_jax.types import Grid, MaskPlan

GRID = Grid(3, 4, 5)


def plan(visible, decode, valid=None):
    visible, decode = jnp.asarray(visible), jnp.asarray(decode)
    return MaskPlan(visible, decode, jnp.ones(decode.shape), None if valid is None else jnp.asarray(valid))


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_visible_token_is_that_of_a_search(seed):
    random = np.random.default_rng(seed)
    orders = [random.permutation(GRID.size) for _ in range(2)]
    visible = np.stack([np.sort(order[:7]) for order in orders])
    decode = np.stack([np.sort(order[7:30]) for order in orders])
    valid = np.arange(7)[None] < np.array([[7], [4]])
    found = np.asarray(nearest_visible(plan(visible, decode, valid), GRID))
    place = lambda token: np.array(np.unravel_index(token, (GRID.t, GRID.h, GRID.w)))  # noqa: E731
    for row in range(2):
        known = visible[row][valid[row]].tolist()
        for column, token in enumerate(decode[row].tolist()):
            wanted = min(known, key=lambda one: (np.abs(place(one) - place(token)).sum(), one))
            assert found[row, column] == wanted


def test_a_token_that_is_visible_is_its_own_copy():
    tokens = np.array([[3, 8, 41]])
    np.testing.assert_array_equal(nearest_visible(plan(tokens, tokens), GRID), tokens)


def test_the_mean_of_a_clip_is_the_best_constant_and_padding_does_not_count():
    random = np.random.default_rng(0)
    targets = random.normal(size=(2, 5, 3)).astype(np.float32)
    weight = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.float32)
    targets[0, 3:] = 1e6
    mean = np.asarray(mean_targets(jnp.asarray(targets), jnp.asarray(weight)))
    np.testing.assert_allclose(mean[0, 4], targets[0, :3].mean(0), rtol=1e-5)
    np.testing.assert_allclose(mean[1, 0], targets[1].mean(0), rtol=1e-5)
    loss = loss_of(jnp.asarray(mean), jnp.asarray(targets), jnp.asarray(weight), l2())
    spread = np.concatenate([targets[0, :3] - targets[0, :3].mean(0), targets[1] - targets[1].mean(0)])
    assert float(loss.count) == 8
    assert float(loss.total / loss.count) == pytest.approx(np.square(spread).mean(), rel=1e-5)
    exact = loss_of(jnp.asarray(targets), jnp.asarray(targets), jnp.asarray(weight), l1())
    assert float(exact.total) == 0
