"""Training on a stream while predicting it: what it reads, what it changes, and that it learns."""

import functools

import jax
import numpy as np
import pytest

from vmae_jax.masking.random import random
from vmae_jax.methods import ttt
from vmae_jax.models.variants import vit
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.train import sharding
from vmae_jax.train.online import Settings, adapter
from vmae_jax.types import Carried

MODEL = vit("micro", frames=1, tubelet=1, resolution=16, patch=4, depth=1, decoder_depth=1, dtype="float32", unroll=0,
            drop_path=0.5)  # fmt: skip
METHOD = ttt.build(MODEL, 5, random(0.75), {"pixels": objective(pixels(normalize=False))}, init_scale=1.0)
SPEC = {
    "video": jax.ShapeDtypeStruct((2, 1, 16, 16, 3), np.uint8),
    "seed": jax.ShapeDtypeStruct((2, 2), np.uint32),
    "index": jax.ShapeDtypeStruct((2,), np.int32),
    "valid": jax.ShapeDtypeStruct((2,), bool),
    "label": jax.ShapeDtypeStruct((2,), np.int32),
}
SETTINGS = Settings(window=3, batch=4, steps=2, accumulate=2, learning_rate=3e-3, encoder_share=1.0)


@functools.cache
def network(rate):
    """One adapter for each rate, so that each is compiled once."""
    shapes = sharding.unbox(sharding.abstract(METHOD.init, SPEC)[0])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)
    settings = Settings(**{**SETTINGS.__dict__, "learning_rate": rate})
    return adapter(METHOD, params, Carried(frozen={}), SPEC, settings)


@pytest.fixture
def follower():
    one = network(SETTINGS.learning_rate)
    one.forget()
    return one


def stream(count=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 16, 16, 3)).astype(np.uint8)


def follow(one, clips):
    return [one(clip, moment) for moment, clip in enumerate(clips)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


@pytest.mark.slow
def test_with_a_rate_of_0_nothing_changes():
    still = network(0.0)
    still.forget()
    clips = stream()
    for clip, found in zip(clips, follow(still, clips), strict=True):
        np.testing.assert_array_equal(found.adapted, found.without)
        plain = METHOD.predict(still.base, {"video": clip[None], "seed": np.zeros((1, 2), np.uint32)})
        np.testing.assert_allclose(found.without, plain[0], rtol=1e-4, atol=1e-5)
    assert same(still.params, still.base)


def test_the_classifier_stays_and_the_rest_learns(follower):
    found = follow(follower, stream())
    assert any(np.abs(one.adapted - one.without).max() > 1e-3 for one in found)
    for name in follower.base:
        assert same(follower.params[name], follower.base[name]) == (name in ("head", "fc_norm")), name


def test_a_prediction_does_not_depend_on_later_frames(follower):
    clips, other = stream(), stream(seed=1)
    first = follow(follower, clips)
    follower.forget()
    second = follow(follower, [*clips[:4], *other[4:]])
    for moment in range(4):
        np.testing.assert_array_equal(first[moment].adapted, second[moment].adapted)
    assert np.abs(first[4].adapted - second[4].adapted).max() > 0


def test_a_stream_begins_with_the_trained_weights(follower):
    first = follow(follower, stream())
    assert not same(follower.params, follower.base)
    follower.forget()
    assert same(follower.params, follower.base)
    for one, other in zip(first, follow(follower, stream()), strict=True):
        np.testing.assert_array_equal(one.adapted, other.adapted)


def test_only_the_window_is_remembered(follower):
    clips, others = stream(), stream(seed=1)
    found = []
    for before in (clips[0], others[0]):  # it has left the window of the last moment
        follower.forget()
        for moment, clip in enumerate([before, *clips[1:4]]):
            follower.params = follower.base
            last = follower(clip, moment)
        found.append(last.adapted)
    np.testing.assert_array_equal(*found)
    assert len(follower.memory) == SETTINGS.window


def test_rows_that_are_not_filled_are_never_drawn(follower):
    clips = stream(3)
    for moment in range(3):
        results = []
        for black in (3, 2, 1):  # none, the row that is not filled, one that is
            window = np.where(np.arange(3)[:, None, None, None, None] == black, np.uint8(0), clips)
            results.append(follower.train(follower.base, window, np.int32(2), np.int32(moment)))
        assert same(results[0], results[1])
        assert not same(results[0], results[2])


def test_the_loss_falls_on_a_video_that_stands_still(follower):
    losses = [one.loss for one in follow(follower, np.repeat(stream(1), 20, axis=0))]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_a_step_that_is_not_finite_is_refused(follower):
    broken = jax.tree.map(lambda leaf: leaf, follower.base)
    broken["decoder"]["mask_token"] = broken["decoder"]["mask_token"] * np.nan
    follower.params = broken
    found = follower(stream(1)[0], 0)
    assert found.refused
    assert np.isfinite(found.adapted).all()  # the classifier does not read the decoder
    assert same(follower.params["encoder"], follower.base["encoder"])


def test_micro_batches_change_nothing_but_rounding(follower):
    """One step of all clips: the first moment, whose window holds one."""
    whole = Settings(**{**SETTINGS.__dict__, "accumulate": 1})
    other = adapter(METHOD, jax.device_get(follower.base), Carried(frozen={}), SPEC, whole)
    one, two = (each(stream(1)[0], 0) for each in (follower, other))
    assert one.loss == pytest.approx(two.loss, rel=1e-5)
