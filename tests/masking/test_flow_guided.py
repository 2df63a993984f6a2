"""Masks that follow the flow: counts, still clips, uniform motion in both directions, ties, and edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.masking.core import plan, ranks
from vmae_jax.masking.flow_guided import (
    BASE,
    EARLIER,
    LATER,
    drawn_map,
    flow_guided,
    followed,
    gaussians,
    largest,
    moved,
)
from vmae_jax.masking.running_cell import running_cell
from vmae_jax.methods.flow import outward_pairs
from vmae_jax.types import Grid, stream

GRID, FRAMES, SIDE = Grid(8, 14, 14), 16, 224
MIDDLE = FRAMES // 2
SMALL = Grid(2, 4, 4)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def uniform(x, y, *, fix_backward=True, rows=1):
    """The flow of clips in which everything moves by so many pixels a frame; beyond them, whole pixels are shown."""
    speed = np.array([x, y]) * SIDE / (SIDE - 1)
    sides = outward_pairs(FRAMES, MIDDLE, fix_backward=fix_backward)
    one = [np.stack([np.full((SIDE, SIDE, 2), (b - a) * speed, np.float32) for a, b in pairs]) for pairs in sides]
    return {name: np.stack([side] * rows) for name, side in zip((EARLIER, LATER), one, strict=True)}


def seen(batch, seed=0, grid=GRID, **options):
    """Which tokens are visible, [b t h w]."""
    made = plan(keys(len(batch[LATER]), seed), batch, grid, flow_guided(**options))
    out = np.zeros((len(batch[LATER]), grid.size), bool)
    np.put_along_axis(out, np.asarray(made.visible), True, axis=1)
    return out.reshape(-1, grid.t, grid.h, grid.w)


def noisy(rows=3, scale=6.0):
    rng = np.random.default_rng(0)
    shapes = {EARLIER: MIDDLE, LATER: FRAMES - MIDDLE - 1}
    return {name: scale * rng.normal(size=(rows, n, SIDE, SIDE, 2)).astype(np.float32) for name, n in shapes.items()}


def test_every_slot_shows_19_tokens_whatever_moves():
    batch = noisy()
    masks = seen(batch)
    np.testing.assert_array_equal(masks.sum((2, 3)), 19)
    assert flow_guided().keep(GRID) == 152
    assert any((one != one[0]).any() for one in masks)  # the slots differ
    whole = seen(batch, over_clip=True)
    np.testing.assert_array_equal(whole.sum((1, 2, 3)), 152)
    assert (whole.sum((2, 3)) != 19).any()


def test_a_still_clip_has_a_tube_of_19_of_the_20_drawn_tokens():
    """Which of them is left out is drawn, too: the last one in order would never be seen in a corner."""
    masks = seen(uniform(0, 0, rows=8)).reshape(8, 8, 196)
    assert (masks == masks[:, :1]).all()
    own = stream(stream(keys(8), "encoder_mask"), "centres")
    centres = np.asarray(ranks(own, 196)[:, :20]).astype(int)
    left = []
    for drawn, one in zip(centres, masks, strict=True):
        visible = set(np.flatnonzero(one[0]))
        assert visible < set(drawn)
        [absent] = set(drawn) - visible
        left.append(sorted(drawn).index(absent))
    assert len(set(left)) > 2


def test_maps_of_tokens_and_of_pixels():
    """Nothing in them is 0, which is what comes from beyond the edge."""
    tokens, pixels = (np.asarray(drawn_map(start, 0.9, keys(2), GRID, (16, 16))) for start in ("tokens", "pixels"))
    cells = tokens.reshape(2, 14, 16, 14, 16)
    np.testing.assert_array_equal(cells, np.broadcast_to(cells[:, :, :1, :, :1], cells.shape))
    np.testing.assert_array_equal((cells[:, :, 0, :, 0] == 1).sum((1, 2)), 20)
    np.testing.assert_array_equal((pixels == 1).sum((1, 2)), int(SIDE * SIDE * 0.1))
    assert min(tokens.min(), pixels.min()) > 0
    masks = seen(uniform(0, 0, rows=2), start="tokens").reshape(2, 8, 196)
    assert (masks == masks[:, :1]).all()
    np.testing.assert_array_equal(masks.sum(2), 19)


def test_one_slot_of_a_clip_is_noisy():
    masks = seen(uniform(0, 0, rows=8), noisy_slot=True).reshape(8, 8, 196)
    usual = seen(uniform(0, 0, rows=8)).reshape(8, 8, 196)
    other = (masks != usual).any(axis=2)
    assert other.sum(axis=1).max() == 1  # small noise leaves the largest maps in front, and changes who is equal
    assert other.sum() >= 4
    assert len(set(other.argmax(axis=1))) > 2


def test_clips_with_bases_of_their_own_have_the_masks_of_these_bases():
    rng = np.random.default_rng(1)
    flow = 3 * rng.normal(size=(4, 2, 3, 16, 16, 2)).astype(np.float32)  # of each clip before and after any base
    batch = {EARLIER: flow[:, 0], LATER: flow[:, 1], BASE: np.array([0, 1, 3, 2])}
    found = seen(batch, grid=SMALL, ratio=0.75)
    for row, base in enumerate(batch[BASE].tolist()):
        own = {EARLIER: flow[:, 0, :base], LATER: flow[:, 1, : 3 - base]}
        np.testing.assert_array_equal(found[row], seen(own, grid=SMALL, ratio=0.75)[row])


def test_with_a_mask_of_the_decoder():
    made = plan(keys(2), uniform(8, 0, rows=2), GRID, flow_guided(), running_cell(0.5))
    assert made.visible.shape == (2, 152)
    assert made.decode.shape == (2, 784)
    both = [len(set(map(int, v)) & set(map(int, d))) for v, d in zip(made.visible, made.decode, strict=True)]
    np.testing.assert_array_equal((np.asarray(made.weight) == 0).sum(1), both)


@pytest.mark.parametrize(("x", "y"), [(8, 0), (-8, 8)])
def test_uniform_motion_moves_the_maps(x, y):
    """By (x, y) a frame, to both sides of the base; without the correction, the earlier half goes the other way."""
    places = ranks(keys(1), 196)[:, :20].astype(jnp.int32)
    drawn = gaussians(places, GRID, (16, 16))
    maps = {}
    for fix in (True, False):
        batch = uniform(x, y, fix_backward=fix)
        maps[fix] = np.asarray(followed(drawn, jnp.asarray(batch[EARLIER]), jnp.asarray(batch[LATER])))[0]
    for frame in range(FRAMES):
        for fix in (True, False):
            steps = frame - MIDDLE if fix or frame > MIDDLE else MIDDLE - frame
            right, down = x * steps, y * steps
            inside = np.s_[max(down, 0) : SIDE + min(down, 0), max(right, 0) : SIDE + min(right, 0)]
            wanted = np.roll(np.asarray(drawn)[0], (down, right), axis=(0, 1))
            np.testing.assert_allclose(maps[fix][frame][inside], wanted[inside], rtol=0, atol=1e-4)


def test_uniform_motion_moves_the_visible_tokens():
    """One token to the right a slot. Beyond the left edge the drawn map returns, so that not all of them move."""
    for fix, wins in ((True, 1), (False, -1)):
        masks = seen(uniform(8, 0, fix_backward=fix, rows=6), seed=3)
        base = masks[:, 4]
        for slot in (1, 2, 6, 7):
            share = {}
            for direction in (1, -1):
                steps = direction * (slot - 4)
                other = np.roll(base, steps, axis=2)
                inside = np.s_[:, :, max(steps, 0) : 14 + min(steps, 0)]
                share[direction] = (other & masks[:, slot])[inside].sum() / other[inside].sum()
            wanted = wins if slot < 4 else 1
            assert share[wanted] > share[-wanted] + 0.25, (fix, slot, share)


def test_beyond_the_edge_the_drawn_map_returns():
    known = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1, (1, 8, 8)), jnp.float32)
    flow = jnp.zeros((1, 8, 8, 2)).at[..., 0].set(2 * 8 / 7)  # from two pixels further to the right
    new = np.asarray(moved(known, flow))
    np.testing.assert_allclose(new[0, :, :6], known[0, :, 2:], rtol=1e-5)
    np.testing.assert_array_equal(new[0, :, 6:], 0)
    maps = np.asarray(followed(known, flow[:, None], flow[:, None]))
    assert maps.shape == (1, 3, 8, 8)
    np.testing.assert_array_equal(maps[0, 0, :, 6:], known[0, :, 6:])
    far = np.asarray(moved(known, jnp.full((1, 8, 8, 2), 1e30)))
    np.testing.assert_array_equal(far, 0)


def test_of_equal_scores_the_ties_decide():
    scores = jnp.asarray([[1.0, 2.0, 2.0, 2.0, 0.0]])
    np.testing.assert_array_equal(largest(scores, jnp.asarray([[0.0, 3.0, 1.0, 2.0, 4.0]]), 2), [[0, 0, 1, 1, 0]])
    np.testing.assert_array_equal(largest(scores, jnp.asarray([[0.0, 1.0, 3.0, 2.0, 4.0]]), 4), [[1, 1, 1, 1, 0]])


def test_masks_depend_on_a_clip_and_its_seed_alone():
    batch = noisy(rows=2)
    every = seen(batch)
    one = plan(keys(2)[1:], {name: value[1:] for name, value in batch.items()}, GRID, flow_guided())
    np.testing.assert_array_equal(np.sort(np.flatnonzero(every[1])), one.visible[0])
    assert (seen(batch, seed=1) != every).any()


def test_the_mask_has_no_gradient():
    batch = {EARLIER: jnp.ones((1, 2, 16, 16, 2)), LATER: jnp.ones((1, 1, 16, 16, 2))}
    gradient = jax.grad(lambda batch: flow_guided(0.5).score(keys(1), batch, SMALL).sum())(batch)
    assert all((np.asarray(one) == 0).all() for one in gradient.values())


def test_mistakes():
    with pytest.raises(ValueError, match="a mask ratio must be in"):
        flow_guided(1.0)
    with pytest.raises(ValueError, match="start='random': it must be one of gaussians, tokens, pixels"):
        flow_guided(start="random")
    with pytest.raises(ValueError, match=r"ratio=0\.95 leaves no token of the 16 of a slot visible"):
        flow_guided(0.95).keep(SMALL)
