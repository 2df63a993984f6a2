"""Multi-block masks: the sizes of blocks, what context and targets hold, and how often a position is in either."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.masking.multiblock import multiblock
from vmae_jax.types import Grid

GRID = Grid(4, 14, 14)
KEYS = jax.random.split(jax.random.key(0), 64)


def plan_of(mask, grid=GRID, keys=KEYS):
    return jax.jit(lambda k: mask.plan(k, grid))(keys)


def positions_of(index, valid, grid=GRID):
    """Whether each position of each slot is in a list, [b t s]."""
    found = np.zeros((len(index), grid.size), bool)
    rows, columns = np.nonzero(np.asarray(valid))
    found[rows, np.asarray(index)[rows, columns]] = True
    return found.reshape(len(index), grid.t, grid.slot)


@pytest.mark.parametrize(("count", "scale"), [(8, 0.15), (2, 0.7)])
def test_sizes_are_those_of_the_official_generator(count, scale):
    """Every size that an aspect ratio gives is in the published table, as often as there."""
    table = _table(scale)
    aspects = jnp.linspace(0.75, 1.5, 20_001)
    height, width = (np.asarray(one) for one in multiblock(count, scale).sizes(aspects, Grid(8, 14, 14)))
    sizes, counts = np.unique(np.stack([height, width], axis=1), axis=0, return_counts=True)
    assert {tuple(size) for size in sizes.tolist()} == set(table)
    for size, number in zip(sizes.tolist(), counts, strict=True):
        assert number / len(aspects) == pytest.approx(table[tuple(size)], abs=2e-3)


def _table(scale):
    """Sizes (height, width) and their probabilities on 14 x 14 positions, by the exact rule."""
    found: dict[tuple[int, int], float] = {}
    area = int(14 * 14 * scale)
    for aspect in np.linspace(0.75, 1.5, 200_001):
        size = tuple(min(14, round(float(np.sqrt(one)))) for one in (area * aspect, area / aspect))
        found[size] = found.get(size, 0.0) + 1 / 200_001
    return found


def test_what_is_hidden_is_so_at_all_times_and_nothing_is_both():
    """Targets and context are apart, each is whole tubes, and their counts are the same for all clips."""
    mask = multiblock(8, 0.15, context=0.25, targets=0.5)
    plan = plan_of(mask)
    assert mask.counts(GRID) == (49 * 4, 98 * 4) == (plan.visible.shape[1], plan.decode.shape[1])
    seen, hidden = positions_of(plan.visible, plan.valid), positions_of(plan.decode, plan.decode_valid)
    assert not (seen & hidden).any()
    for one in (seen, hidden):
        assert (one == one[:, :1]).all()
        assert one.any(axis=(1, 2)).all()
    np.testing.assert_array_equal(plan.weight, np.asarray(plan.decode_valid, np.float32))
    for index in (plan.visible, plan.decode):
        assert (np.diff(np.asarray(index), axis=1) > 0).all()


@pytest.mark.slow
def test_hidden_positions_are_the_union_of_blocks_of_one_size():
    """Of a single block, the hidden positions are a rectangle of a size of the table."""
    mask = multiblock(1, 0.15)
    hidden = np.asarray(jax.vmap(lambda key: mask.hidden(key, GRID))(KEYS)).reshape(-1, 14, 14)
    corners = set()
    for one in hidden:
        rows, columns = np.nonzero(one)
        top, left = rows.min(), columns.min()
        height, width = rows.max() + 1 - top, columns.max() + 1 - left
        assert one.sum() == height * width
        assert (int(height), int(width)) in _table(0.15)
        corners.add((int(top), int(left)))
    assert len(corners) > 30
    assert {0, 8} <= {top for top, _ in corners} | {left for _, left in corners}


def test_all_context_and_all_targets_together_are_the_clip():
    """With room for everything, each position is seen or predicted, and the padding is neither."""
    plan = plan_of(multiblock(8, 0.15, context=1.0, targets=1.0))
    seen, hidden = positions_of(plan.visible, plan.valid), positions_of(plan.decode, plan.decode_valid)
    assert (seen ^ hidden).all()
    assert 0.3 < hidden.mean() < 0.8


def test_large_blocks_leave_something_to_see():
    """Two blocks of 70% often cover a frame; such a draw is repeated."""
    keys = jax.random.split(jax.random.key(1), 512)
    hidden = np.asarray(jax.vmap(lambda key: multiblock(2, 0.7).hidden(key, Grid(1, 16, 16)))(keys))
    assert not hidden.all(axis=1).any()
    assert 0.7 < hidden.mean() < 0.9


def test_no_end_of_the_clip_is_left_out():
    """What is cut is drawn at random: every slot and every position is as often in the context."""
    plan = plan_of(multiblock(8, 0.15, context=0.1, targets=0.2), keys=jax.random.split(jax.random.key(2), 2048))
    seen = positions_of(plan.visible, plan.valid)
    shares = seen.mean(axis=0)
    assert np.ptp(shares.mean(axis=1)) == 0
    corner, last = shares[0, 0], shares[0, -1]
    assert corner == pytest.approx(last, abs=0.05)


def test_masks_are_functions_of_their_keys():
    one, other = plan_of(multiblock()), plan_of(multiblock(), keys=KEYS[::-1])
    np.testing.assert_array_equal(one.visible, np.asarray(other.visible)[::-1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "count=0"),
        ({"scale": 0.0}, "scale=0.0: a share"),
        ({"context": 1.5}, "context=1.5: a share"),
        ({"aspect": [2.0, 1.0]}, "ascending"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        multiblock(**arguments)


def test_a_grid_of_too_few_tokens_is_refused():
    with pytest.raises(ValueError, match=r"context=0.1 and targets=0.46 of 4 positions a slot are 0 and 2"):
        multiblock(context=0.1).counts(Grid(2, 2, 2))
    with pytest.raises(ValueError, match=r"of 4 positions a slot are 4 and 0: there must be some of each"):
        multiblock(context=1.0, targets=0.1).counts(Grid(2, 2, 2))
