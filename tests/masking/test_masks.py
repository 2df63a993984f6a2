"""Every mask: counts, order, uniqueness, structure, determinism."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings

from vmae_jax.masking.block import block
from vmae_jax.masking.core import Masker, plan, ranks, select
from vmae_jax.masking.frame import frame
from vmae_jax.masking.random import random
from vmae_jax.masking.running_cell import running_cell
from vmae_jax.masking.tube import tube
from vmae_jax.types import Grid

# Few of them: every grid is compiled once for each mask, and that is where the time goes.
grids = st.sampled_from([Grid(2, 2, 2), Grid(3, 2, 8), Grid(8, 6, 4), Grid(5, 8, 8)])
ratios = st.sampled_from([0.25, 0.5, 0.75, 0.9])
STRATEGIES = {"random": random, "tube": tube, "frame": frame, "block": block}
few = settings(max_examples=12, deadline=None)


def keys(n: int, seed: int = 0):
    return jax.random.split(jax.random.key(seed), n)


def seen(mask_plan, grid: Grid) -> np.ndarray:
    """[b t h w] bool: what the encoder sees."""
    out = np.zeros((mask_plan.visible.shape[0], grid.size), bool)
    np.put_along_axis(out, np.asarray(mask_plan.visible), True, axis=1)
    return out.reshape(-1, grid.t, grid.h, grid.w)


@pytest.mark.parametrize("name", STRATEGIES)
@few
@given(grid=grids, ratio=ratios, seed=st.integers(0, 2**31))
def test_indices_are_sorted_unique_in_range_and_as_many_as_promised(name, grid, ratio, seed):
    masker = STRATEGIES[name](ratio)
    assume(masker.keep(grid) < grid.size)  # a grid so small that the ratio hides nothing is refused, below
    made = plan(keys(3, seed), {}, grid, masker)
    visible, decode = np.asarray(made.visible), np.asarray(made.decode)
    assert visible.shape == (3, masker.keep(grid))
    assert decode.shape == (3, grid.size - masker.keep(grid))
    for row, rest in zip(visible, decode, strict=True):
        assert (np.diff(row) > 0).all()
        assert (np.diff(rest) > 0).all()
        assert sorted([*row, *rest]) == list(range(grid.size))
    np.testing.assert_array_equal(made.weight, 1.0)


@few
@given(grid=grids, ratio=ratios, seed=st.integers(0, 2**31))
def test_tubes_are_whole(grid, ratio, seed):
    assume(int(ratio * grid.slot) > 0)
    video = seen(plan(keys(2, seed), {}, grid, tube(ratio)), grid)
    assert (video == video[:, :1]).all()


@few
@given(grid=grids, seed=st.integers(0, 2**31))
def test_frames_are_whole(grid, seed):
    slots = seen(plan(keys(2, seed), {}, grid, frame(0.5)), grid).reshape(2, grid.t, -1)
    assert (slots.all(-1) | ~slots.any(-1)).all()


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@few
@given(grid=grids, seed=st.integers(0, 2**31))
def test_running_cells(ratio, grid, seed):
    masker = running_cell(ratio)
    kept = np.asarray(masker.score(keys(4, seed), {}, grid)).reshape(4, grid.t, grid.h, grid.w)
    assert kept.sum() == 4 * masker.keep(grid)
    cells = kept.reshape(4, grid.t, grid.h // 2, 2, grid.w // 2, 2).sum((3, 5))
    np.testing.assert_array_equal(cells, 4 * (1 - ratio))
    for start in range(grid.t - 3):  # any four consecutive slots
        np.testing.assert_array_equal(kept[:, start : start + 4].sum(1), 4 * (1 - ratio))


def test_running_cell_has_four_phases():
    grid = Grid(4, 4, 4)
    rows = np.asarray(running_cell(0.5).score(keys(64), {}, grid))
    assert len({row.tobytes() for row in rows}) == 4


@pytest.mark.parametrize(("grid", "counts"), [(Grid(8, 14, 14), (160, 784, 704)), (Grid(8, 16, 16), (208, 1024, 920))])
def test_the_counts_of_videomae_v2(grid, counts):
    made = plan(keys(3), {}, grid, tube(0.9), running_cell(0.5))
    assert (made.visible.shape[1], made.decode.shape[1]) == counts[:2]
    np.testing.assert_array_equal(made.weight.sum(1), counts[2])


def test_weight_is_zero_exactly_where_the_encoder_saw():
    grid = Grid(4, 4, 4)
    made = plan(keys(5), {}, grid, random(0.5), running_cell(0.5))
    for visible, decode, weight in zip(made.visible, made.decode, made.weight, strict=True):
        np.testing.assert_array_equal(np.asarray(weight) == 0, np.isin(decode, visible))


def test_masks_are_functions_of_the_key_alone():
    grid, masks = Grid(4, 4, 4), (tube(0.75), running_cell(0.5))
    many = plan(keys(6), {}, grid, *masks)
    one = plan(keys(6)[4:5], {}, grid, *masks)
    np.testing.assert_array_equal(many.visible[4:5], one.visible)
    np.testing.assert_array_equal(many.decode[4:5], one.decode)
    assert len({np.asarray(row).tobytes() for row in many.visible}) > 1


def test_random_hides_every_token_equally_often():
    grid = Grid(2, 4, 4)
    frequency = seen(plan(keys(4000), {}, grid, random(0.75)), grid).reshape(4000, -1).mean(0)
    np.testing.assert_allclose(frequency, 0.25, atol=0.04)


def test_blocks_hang_together():
    """Hidden tokens have more hidden neighbours than random masking of the same ratio gives."""
    grid = Grid(8, 14, 14)

    def neighbours(masker: Masker) -> float:
        hidden = ~seen(plan(keys(8), {}, grid, masker), grid)
        return float((hidden[..., 1:] & hidden[..., :-1]).mean())

    assert neighbours(block(0.5)) > neighbours(random(0.5)) + 0.1


@pytest.mark.parametrize(("frames", "slots"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_a_block_is_half_of_the_time_and_its_share_of_the_area(frames, slots):
    """One box alone: tokens below 0 are under it."""
    grid = Grid(frames, 8, 8)

    def covered(**options) -> np.ndarray:
        score = block(0.5, count=1, **options).score(keys(4), {}, grid)
        return np.asarray(score < 0).reshape(4, frames, 64).sum(2)

    assert [sorted(set(row) - {0}) for row in covered(share=0.001)] == [[1]] * 4
    assert (covered(share=0.001) > 0).sum(1).tolist() == [slots] * 4
    assert (covered(share=0.001, full_time=True) == 1).all()
    assert (covered(share=1.0, full_time=True) >= 48).all()  # at the narrowest aspect


def test_the_masks_of_the_papers_are_the_defaults():
    grid = Grid(8, 14, 14)
    assert tube().keep(grid) == tube(0.9).keep(grid) == 8 * 20
    assert frame().keep(grid) == frame(0.5).keep(grid) == 4 * 196


def test_ranks_do_not_tie():
    rows = np.asarray(ranks(keys(8), 300))
    assert all(len(set(row)) == 300 for row in rows)


def test_select_takes_the_largest_and_the_earlier_of_equals():
    made = select(jnp.asarray([[0.0, 2.0, 2.0, 1.0]]), 2)
    np.testing.assert_array_equal(made.visible, [[1, 2]])
    np.testing.assert_array_equal(select(jnp.ones((1, 4)), 2).visible, [[0, 1]])


@pytest.mark.parametrize("make", [tube, random, frame, block])
@pytest.mark.parametrize("ratio", [1.2, 1.0, -0.1])
def test_a_ratio_outside_is_refused(make, ratio):
    with pytest.raises(ValueError, match=r"mask ratio must be in \[0, 1\)"):
        make(ratio)


def test_running_cell_refuses_odd_grids_and_other_ratios():
    with pytest.raises(ValueError, match="even number of tokens"):
        running_cell(0.5).keep(Grid(8, 15, 14))
    with pytest.raises(ValueError, match=r"0\.25, 0\.5 or 0\.75"):
        running_cell(0.6)


def test_a_mask_that_leaves_nothing_to_see_or_to_predict_is_refused():
    with pytest.raises(ValueError, match="some of each"):
        plan(keys(1), {}, Grid(2, 2, 2), random(0.0))
    with pytest.raises(ValueError, match="the encoder would see 0"):
        select(jnp.ones((1, 4)), 0)


@pytest.mark.parametrize("options", [{"share": 1.5}, {"share": 0.0}, {"count": 0}])
def test_a_block_that_is_none_is_refused(options):
    with pytest.raises(ValueError, match=r"count >= 1 and a share in \(0, 1\]"):
        block(0.5, **options)


@pytest.mark.parametrize(
    ("grid", "ratio", "hidden", "visible"),
    [(Grid(8, 14, 14), 0.9, 157, 156), (Grid(1, 14, 14), 0.75, 49, 49), (Grid(8, 16, 16), 0.9, 205, 204)],
)
def test_which_count_is_rounded_down(grid, ratio, hidden, visible):
    """VideoMAE hides int(0.9 n) of n tokens, MAE and MAE-ST leave int(0.1 n) visible."""
    assert random(ratio).keep(grid) == hidden
    assert random(ratio, rounded_down="visible").keep(grid) == visible
    with pytest.raises(ValueError, match="rounded_down must be 'hidden' or 'visible', got 'both'"):
        random(ratio, rounded_down="both")
