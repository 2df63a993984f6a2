"""Spread and rank of embeddings in training, against those of the diagnostics."""

import jax.numpy as jnp
import numpy as np

from vmae_jax.eval import geometry
from vmae_jax.methods.embeddings import spread


def test_spread_and_rank_are_those_of_the_rows_that_count():
    rows = np.random.default_rng(0).normal(2.0, np.geomspace(1, 0.1, 6), (40, 6)).astype(np.float32)
    padded = np.concatenate([rows, np.full((3, 6), 50.0, np.float32)])
    std, rank = spread(jnp.asarray(padded), jnp.asarray(np.arange(43) < 40, jnp.float32))
    values = geometry.singular_values(geometry.centred(rows))
    np.testing.assert_allclose(std.total / std.count, rows.std(axis=0).mean(), rtol=1e-4)
    np.testing.assert_allclose(rank.total / rank.count, geometry.participation(values**2), rtol=1e-4)


def test_constant_embeddings_have_no_spread_and_one_dimension():
    std, rank = spread(jnp.full((5, 3), 2.0), jnp.ones(5))
    assert (float(std.total), float(rank.total)) == (0.0, 1.0)
