"""Given holes: nothing of them is seen, all of them is predicted, and what is intact is left to chance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from vmae_jax.masking.core import plan
from vmae_jax.masking.holes import holes
from vmae_jax.masking.random import random
from vmae_jax.masking.running_cell import running_cell
from vmae_jax.methods.masked import Masked
from vmae_jax.models.variants import vit
from vmae_jax.spec import ConfigError
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Carried, Grid

GRID = Grid(2, 4, 4)
KEYS = jax.random.split(jax.random.key(0), 4)
MODEL = vit("micro", frames=4, resolution=16, patch=4, decoder_depth=1, dtype="float32")
MISSING = np.zeros((4, 2, 4, 4), bool)  # by tokens: of the first clip a few, of the second most, of the third all
MISSING[0, :, 1:3, 1] = MISSING[1, :, :3] = MISSING[2] = True


def planes(missing=MISSING):
    """The stream of these tokens, of which one pixel each is missing."""
    found = np.zeros((len(missing), 4, 16, 16, 1), np.uint8)
    found[:, ::2, 3::4, ::4, 0] = 7 * missing
    return {"holes": found, "holes_mask": np.ones((len(missing), 4), bool), "holes_valid": np.arange(len(missing)) < 3}


def seen(made):
    """Which tokens are seen, and which are predicted and count, [b n]."""
    found = np.zeros((2, len(KEYS), GRID.size), bool)
    valid = np.ones(made.visible.shape, bool) if made.valid is None else np.asarray(made.valid)
    for row in range(len(KEYS)):
        found[0, row, np.asarray(made.visible)[row][valid[row]]] = True
        found[1, row, np.asarray(made.decode)[row][np.asarray(made.weight)[row] > 0]] = True
    return found


def test_no_token_of_a_hole_is_seen_and_all_are_predicted():
    visible, predicted = seen(plan(KEYS, planes(), GRID, holes(0.5)))
    gone = MISSING.reshape(4, -1)
    assert not (visible & gone)[:2].any()
    assert (predicted & gone)[0].sum() == gone[0].sum() == 4
    assert visible.sum(1)[[0, 1, 3]].tolist() == [16, 8, 16]  # of the second all that are intact
    assert predicted.sum(1).tolist() == [16, 16, 0, 16]
    assert (~gone | predicted | ~visible)[:2].all()


def test_without_holes_it_is_a_random_mask():
    found, other = (plan(KEYS, planes(0 * MISSING), GRID, one) for one in (holes(0.75), random(0.75)))
    np.testing.assert_array_equal(found.visible, other.visible)
    np.testing.assert_array_equal(found.decode, other.decode)
    assert np.asarray(found.valid).all()
    assert np.asarray(found.weight).all()


def test_frames_without_a_plane_have_no_hole():
    batch = planes()
    batch["holes_mask"][:] = False
    assert np.asarray(plan(KEYS, batch, GRID, holes(0.5)).valid).all()


def test_a_mask_of_the_decoder_predicts_holes_that_pad_what_is_seen():
    made = plan(KEYS, planes(), GRID, holes(0.25), running_cell(0.5))
    gone = np.take_along_axis(MISSING.reshape(4, -1), np.asarray(made.decode), axis=1)
    assert (np.asarray(made.weight)[1][gone[1]] == 1).all()
    assert gone[1].sum() > 8  # more than the list of hidden tokens has


def test_pixels_in_holes_change_no_prediction_and_clips_without_an_intact_token_do_not_count():
    one = Masked(MODEL, holes(0.5), None, {"pixels": objective(pixels(normalize=False))})
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (4, 4, 16, 16, 3), dtype=np.uint8)
    batch = {"video": video, "valid": np.ones(4, bool), "seed": np.zeros((4, 2), np.uint32), **planes()}
    params = meta.unbox(jax.jit(one.init)(jax.random.key(0), batch)[0])
    inside = MISSING.repeat(2, 1).repeat(4, 2).repeat(4, 3)[..., None]
    other = np.where(inside, rng.integers(0, 256, video.shape, dtype=np.uint8), video)

    @jax.jit
    def found(video):
        done = one.forward(params, {**batch, "video": video}, Carried().context(jax.random.key(1)))
        return (
            done.predictions["pixels"],
            one.terms(done)["pixels"].count,
            one.reconstruct(params, {**batch, "video": video}, Carried().context(jax.random.key(1))).rows,
        )

    before, count, rows = found(video)
    after, _, others = found(other)
    np.testing.assert_array_equal(before[:2], after[:2])
    assert np.isfinite(before).all()
    assert int(count) == 3 * 16
    for name in ("masked", "reconstructed"):
        np.testing.assert_array_equal(rows[name][:2], others[name][:2])
    kept = ~np.asarray(inside.repeat(3, -1))[0] & (np.asarray(rows["masked"])[0] != 128)
    np.testing.assert_array_equal(np.asarray(rows["reconstructed"])[0][kept], video[0][kept])


def test_what_cannot_work():
    batch = planes() | {"valid": np.ones(4, bool)}
    mask = holes(0.5)
    assert mask.check is not None
    mask.check(batch)
    with pytest.raises(ConfigError, match=r"none of the 4 clips .* planes of holes"):
        mask.check(batch | {"holes_valid": np.zeros(4, bool)})
    with pytest.raises(ValueError, match="do not divide"):
        jax.eval_shape(lambda: plan(KEYS, {**batch, "holes": jnp.zeros((4, 4, 18, 16, 1))}, GRID, mask))
