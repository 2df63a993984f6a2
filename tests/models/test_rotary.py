"""Rotary positions: what rotates, by which angle, and what permutations and shifts of tokens change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from vmae_jax.models.rotary import rotary, rotated, rotation
from vmae_jax.models.variants import vit
from vmae_jax.types import Grid, MaskPlan

GRID = Grid(2, 3, 4)


def turned(positions, index, x, heads=2, grid=GRID, prefix=0):
    about = {"width": x.shape[-1], "heads": heads, "prefix": prefix, "dtype": jnp.float32}
    return rotated(x, rotation(positions, grid, index, **about))


def test_the_channels_of_a_head():
    """A head of 64 has 20 channels an axis and 4 that stay, one of 80 has 26 and 2."""
    for size, half, free in ((64, 10, 4), (80, 13, 2), (32, 5, 2), (18, 3, 0)):
        angles = rotary().angles(Grid(2, 2, 2), size)
        still = np.flatnonzero((angles == 0).all(axis=0))
        assert still.tolist() == list(range(size - free, size))
        assert angles[4, 0] == 1  # the token of the second slot, at the highest frequency
        assert angles[4, 2 * half] == 0  # which is in the first row
        np.testing.assert_allclose(angles[4, 2 * half - 1], 10_000.0 ** (-(half - 1) / half))


def test_neighbours_rotate_and_tiled_does_not():
    """A rotation keeps the length of each pair; the published V-JEPA 2 has two angles in a pair."""
    x = jax.random.normal(jax.random.key(0), (1, GRID.size, 40))
    index = jnp.arange(GRID.size)[None]
    before = np.linalg.norm(np.asarray(x).reshape(-1, 2), axis=-1)
    for pairing, kept in (("neighbours", True), ("tiled", False)):
        after = np.linalg.norm(np.asarray(turned(rotary(pairing), index, x)).reshape(-1, 2), axis=-1)
        assert np.allclose(before, after, rtol=1e-5) == kept


def test_by_hand():
    """One pair of an axis: (a, b) becomes (a cos - b sin, b cos + a sin)."""
    x = jnp.arange(1.0, 7.0)[None, None]
    found = np.asarray(turned(rotary(), jnp.asarray([[GRID.size - 1]]), x, heads=1))[0, 0]
    for axis, place in enumerate((1, 2, 3)):
        a, b = np.asarray(x)[0, 0, 2 * axis : 2 * axis + 2]
        want = a * np.cos(place) - b * np.sin(place), b * np.cos(place) + a * np.sin(place)
        np.testing.assert_allclose(found[2 * axis : 2 * axis + 2], want, rtol=1e-5)


def test_any_grid_spans_that_of_the_side():
    """The last of 4 columns is where the last of 16 was, time is not stretched."""
    wide, narrow = rotary(side=16).angles(Grid(2, 16, 16), 18), rotary(side=16).angles(Grid(2, 4, 4), 18)
    np.testing.assert_allclose(narrow[3], wide[15])
    np.testing.assert_allclose(narrow[16], wide[256])
    np.testing.assert_array_equal(rotary(side=16).angles(Grid(1, 1, 1), 18), np.zeros((1, 18)))


def test_prefix_tokens_stay():
    x = jax.random.normal(jax.random.key(0), (1, 3, 12))
    found = turned(rotary(), jnp.asarray([[5, 23]]), x, heads=1, prefix=1)
    np.testing.assert_array_equal(found[:, 0], x[:, 0])
    assert not np.allclose(found[:, 1], x[:, 1])


def model(**more):
    options = {"frames": 4, "resolution": 16, "width": 36, "heads": 2, "dtype": "float32", **more}
    return vit("micro", positions=rotary(), **options)


def outputs(made, cubes, places):
    plan = MaskPlan(places, places, jnp.ones(places.shape))
    params = meta.unbox(jax.jit(made.encoder.init)(jax.random.key(0), cubes, plan)["params"])
    return made.encoder.apply({"params": params}, cubes, plan)


def test_tokens_may_come_in_any_order():
    made = model()
    places = jnp.asarray([[0, 3, 5, 6]])
    cubes = jax.random.normal(jax.random.key(1), (1, 4, made.cube))
    order = jnp.asarray([2, 0, 3, 1])
    found = outputs(made, cubes, places)
    np.testing.assert_allclose(outputs(made, cubes[:, order], places[:, order]), found[:, order], atol=1e-5)
    assert not np.allclose(outputs(made, cubes, places[:, order]), found, atol=1e-3)


def test_levels_are_the_outputs_of_blocks_each_after_its_norm():
    made = model(depth=3, levels=[0, 2])
    places = jnp.arange(8)[None]
    cubes = jax.random.normal(jax.random.key(1), (1, 8, made.cube))
    plan = MaskPlan(places, places, jnp.ones(places.shape))
    params = meta.unbox(jax.jit(made.encoder.init)(jax.random.key(0), cubes, plan)["params"])
    found = made.encoder.apply({"params": params}, cubes, plan)
    assert found.shape == (1, 8, 72)
    for level, depth in enumerate((1, 3)):
        short, weights = made.encoder.shallow(params, depth)
        raw = short.apply({"params": weights}, cubes, plan)
        normed = (raw - raw.mean(-1, keepdims=True)) / jnp.sqrt(raw.var(-1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(found[..., 36 * level : 36 * (level + 1)], normed, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rotary("pairs"), "pairing='pairs': one of neighbours, tiled"),
        (lambda: rotary(side=1), "side=1: at least 2"),
        (lambda: rotary().angles(GRID, 4), "heads of at least 6 channels"),
        (lambda: model(levels=[1, 0]), "levels=.1, 0.: ascending"),
        (lambda: model(levels=[2]), "from 0 to 1"),
        (lambda: model(mask_tokens=0), "mask_tokens=0"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()
