"""Motion-guided masks: counts, what they follow, clips in which nothing moves, and clips without vectors."""

import jax
import numpy as np
import pytest

from vmae_jax.masking.core import plan
from vmae_jax.masking.motion_guided import motion_guided
from vmae_jax.spec import ConfigError
from vmae_jax.types import Grid

GRID = Grid(8, 14, 14)
SIDE = 4  # tokens of the moving square


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def batch_of(motion, has=None):
    """A batch of vectors [b t h w 2]; `has` is which frames have vectors, [b t]."""
    has = np.ones(motion.shape[:2], bool) if has is None else has
    return {
        "motion": np.asarray(motion, np.float32),
        "motion_mask": has,
        "motion_valid": has.any(1),
        "valid": np.ones(len(motion), bool),
    }


def square(places, *, cells=2, frames=2, speed=(3.0, 0.0), grid=GRID):
    """Vectors of a square whose corner is at these tokens in the slots, [1 t h w 2]."""
    field = np.zeros((1, grid.t * frames, grid.h * cells, grid.w * cells, 2), np.float32)
    for slot, (top, left) in enumerate(places):
        rows, columns = (slice(cells * one, cells * (one + SIDE)) for one in (top, left))
        field[0, frames * slot : frames * (slot + 1), rows, columns] = speed
    return field


def hidden(batch, ratio=0.75, grid=GRID, seed=0, **options):
    """[b t h w] bool."""
    made = plan(keys(len(batch["motion"]), seed), batch, grid, motion_guided(ratio, **options))
    out = np.ones((len(batch["motion"]), grid.size), bool)
    np.put_along_axis(out, np.asarray(made.visible), False, axis=1)
    return out.reshape(-1, grid.t, grid.h, grid.w)


def centres(masks):
    """The mean place of the hidden tokens, [b t 2]."""
    y, x = np.mgrid[: masks.shape[2], : masks.shape[3]]
    return np.stack([(masks * one).sum((2, 3)) / masks.sum((2, 3)) for one in (y, x)], -1)


def iou(one, two):
    return (one & two).sum() / (one | two).sum()


PATH = [(2, 1), (3, 2), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9)]


@pytest.mark.parametrize(("ratio", "count"), [(0.75, 147), (0.5, 98), (0.1, 20), (0.9, 176)])
def test_every_slot_hides_the_same_number_of_tokens(ratio, count):
    motion = np.random.default_rng(0).normal(size=(6, 16, 28, 28, 2))
    has = np.random.default_rng(1).random((6, 16)) < 0.6
    has[4] = False
    masks = hidden(batch_of(motion, has), ratio)
    np.testing.assert_array_equal(masks.sum((2, 3)), count)
    made = plan(keys(6), batch_of(motion, has), GRID, motion_guided(ratio))
    assert made.visible.shape == (6, 8 * (196 - count))


def test_the_rectangle_is_whole_and_the_rest_is_nearest_to_it():
    """147 of 196: nothing that is hidden is farther from the hidden tokens' box of 80% than one token."""
    masks = hidden(batch_of(np.random.default_rng(0).normal(size=(8, 16, 28, 28, 2))))
    for mask in masks.reshape(-1, 14, 14):
        rows, columns = (np.flatnonzero(mask.mean(axis) > 0.5) for axis in (1, 0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.9
        assert np.diff(rows).max() == np.diff(columns).max() == 1
        outside = mask.copy()
        outside[max(rows[0] - 1, 0) : rows[-1] + 2, max(columns[0] - 1, 0) : columns[-1] + 2] = False
        assert not outside.any()


def test_shapes_differ_between_clips_and_not_within_one():
    masks = hidden(batch_of(np.zeros((32, 16, 28, 28, 2))), ratio=0.3)
    tall = masks.any(3).sum(2)
    assert (tall == tall[:, :1]).all()
    assert len(np.unique(tall)) > 2


def test_the_mask_follows_a_moving_square_and_reverses_under_a_flip():
    ratio = SIDE * SIDE / GRID.slot
    field = square(PATH)
    truth = np.zeros((8, 14, 14), bool)
    for slot, (top, left) in enumerate(PATH):
        truth[slot, top : top + SIDE, left : left + SIDE] = True
    [mask] = hidden(batch_of(field), ratio)
    assert min(iou(one, two) for one, two in zip(mask, truth, strict=True)) > 0.5
    flipped = field[:, :, :, ::-1] * np.float32([-1, 1])
    [mirrored] = hidden(batch_of(flipped), ratio)
    assert min(iou(one, two[:, ::-1]) for one, two in zip(mirrored, truth, strict=True)) > 0.5
    across, back = centres(mask[None])[0, :, 1], centres(mirrored[None])[0, :, 1]
    assert across[-1] > across[0] + 5
    assert back[-1] < back[0] - 5
    [large] = hidden(batch_of(field))  # at 0.75 there is room for a token or two
    assert (large & truth).sum() == truth.sum(), "all that moves is hidden"
    assert centres(large[None])[0, -1, 1] > centres(large[None])[0, 0, 1]


def test_zero_vectors_are_a_tube_and_clips_differ():
    masks = hidden(batch_of(np.zeros((16, 16, 28, 28, 2))), ratio=0.3)
    np.testing.assert_array_equal(masks, masks[:, :1].repeat(8, 1))
    assert len({mask.tobytes() for mask in masks}) == 16


def test_clips_without_vectors_have_a_mask_that_moves_evenly():
    motion = np.random.default_rng(0).normal(size=(32, 16, 28, 28, 2))  # which must not be read
    masks = hidden(batch_of(motion, np.zeros((32, 16), bool)), ratio=0.1)
    np.testing.assert_array_equal(masks, hidden(batch_of(0 * motion, np.zeros((32, 16), bool)), ratio=0.1))
    steps = np.diff(centres(masks), axis=1)
    assert (np.abs(steps).sum((1, 2)) > 1).mean() > 0.8
    forward = (steps > -0.6).all(1) | (steps < 0.6).all(1)  # each coordinate goes one way, but for rounding
    assert forward.all()
    assert np.abs(steps).max() < 3


def test_slots_without_vectors_or_without_motion_are_between_their_neighbours():
    field = square([(5, 1)] * 2 + [(0, 0)] * 4 + [(5, 9)] * 2)
    has = np.ones((1, 16), bool)
    has[0, 4:12] = False
    ratio = SIDE * SIDE / GRID.slot
    missing = hidden(batch_of(field, has), ratio)
    still = field.copy()
    still[:, 4:12] = 0
    found = centres(missing)[0, :, 1]
    np.testing.assert_array_equal(missing, hidden(batch_of(still), ratio))
    assert np.abs(found - np.interp(range(8), [1, 6], [found[1], found[6]])).max() < 1.1
    assert found[6] - found[1] > 5
    alone = np.zeros((1, 16), bool)
    alone[0, 6] = True
    copied = hidden(batch_of(square(PATH), alone), ratio)
    np.testing.assert_array_equal(copied, copied[:, :1].repeat(8, 1))


def test_a_camera_that_moves_everything_is_taken_out():
    plain = square(PATH, speed=(-8.0, 0.0)) + np.float32([8.0, 0.0])  # stands still in the picture
    ratio = SIDE * SIDE / GRID.slot
    truth = np.zeros((8, 14, 14), bool)
    for slot, (top, left) in enumerate(PATH):
        truth[slot, top : top + SIDE, left : left + SIDE] = True
    [follows] = hidden(batch_of(plain), ratio, camera=True)
    assert min(iou(one, two) for one, two in zip(follows, truth, strict=True)) > 0.5
    [misled] = hidden(batch_of(plain), ratio)
    assert np.mean([iou(one, two) for one, two in zip(misled, truth, strict=True)]) < 0.2


def test_masks_are_functions_of_the_key_and_the_clip_alone():
    motion = np.round(np.random.default_rng(0).normal(size=(5, 16, 28, 28, 2)))
    batch = batch_of(motion)
    every = plan(keys(5), batch, GRID, motion_guided())
    again = jax.jit(lambda keys, batch: plan(keys, batch, GRID, motion_guided()))(keys(5), batch)
    np.testing.assert_array_equal(every.visible, again.visible)
    one = plan(keys(5)[3:4], {name: value[3:4] for name, value in batch.items()}, GRID, motion_guided())
    np.testing.assert_array_equal(every.visible[3:4], one.visible)
    assert (np.asarray(plan(keys(5, 1), batch, GRID, motion_guided()).visible) != np.asarray(every.visible)).any()


def test_cells_that_do_not_divide_the_tokens_are_refused():
    with pytest.raises(ValueError, match=r"16x20x28 cells do not divide into 8x14x14 tokens .* cell="):
        hidden(batch_of(np.zeros((1, 16, 20, 28, 2))))


def test_a_first_batch_without_vectors_is_refused_in_one_line():
    check = motion_guided().check
    batch = batch_of(np.zeros((3, 16, 28, 28, 2)), np.zeros((3, 16), bool))
    with pytest.raises(ConfigError, match="none of the 2 clips of the first batch has motion vectors") as error:
        check(batch | {"valid": np.array([True, True, False])})
    assert "\n" not in str(error.value)
    check(batch | {"motion_valid": np.array([False, True, False])})
    check(batch | {"valid": np.zeros(3, bool)})  # rows that only fill a batch
