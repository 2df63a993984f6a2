"""SIGReg: its statistic on known distributions, and against the plain one of the diagnostics."""

import jax
import numpy as np
import pytest

from vmae_jax.eval import geometry
from vmae_jax.methods.sigreg import directions, divergence

EVALUATED = jax.jit(divergence)


def statistic(rows, count=None, axes=None):
    """S of clips with one view each; the first `count` of them are real."""
    rows = np.asarray(rows, np.float32)
    axes = directions(jax.random.key(0), rows.shape[1], 256) if axes is None else axes
    valid = np.arange(len(rows)) < (len(rows) if count is None else count)
    return float(EVALUATED(rows[:, None], valid, axes)) * valid.sum()


@pytest.mark.parametrize("n", [64, 1024])
def test_a_normal_distribution_has_about_1_and_a_constant_a_share_of_n(n):
    normal = np.random.default_rng(n).normal(size=(n, 32))
    assert 0.9 < statistic(normal) < 1.2
    assert statistic(np.zeros((n, 32))) == pytest.approx(0.402 * n, rel=1e-3)
    if n == 1024:
        assert statistic(2 * normal) == pytest.approx(243, rel=0.05)
        assert statistic(np.concatenate([normal[:, :16], np.zeros((n, 16))], axis=1)) == pytest.approx(55.8, rel=0.1)


def test_it_is_that_of_the_diagnostics():
    rows = np.random.default_rng(0).normal(0.3, 1.2, (40, 8))
    drawn = np.random.default_rng(0).normal(size=(8, 256))
    axes = (drawn / np.linalg.norm(drawn, axis=0)).astype(np.float32)
    assert statistic(rows, axes=axes) == pytest.approx(geometry.sigreg(rows), rel=1e-4)


def test_neither_order_nor_padding_matter():
    rows = np.random.default_rng(0).normal(size=(48, 8))
    alone = statistic(rows[:40])
    padded = np.concatenate([rows[:40], np.full((8, 8), 9.0)])
    assert statistic(padded, 40) == pytest.approx(alone, rel=1e-5)
    assert statistic(rows[:40][::-1]) == pytest.approx(alone, rel=1e-5)


def test_directions_are_unit_vectors():
    np.testing.assert_allclose(np.linalg.norm(directions(jax.random.key(0), 5, 7), axis=0), 1.0, rtol=1e-6)
