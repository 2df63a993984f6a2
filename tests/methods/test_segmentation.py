"""Temporal segmentation: its loss by hand, background alone, and a video with two actions that is segmented."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.data.foreground import foreground
from vmae_jax.data.streams.core import Clip, Recording
from vmae_jax.data.streams.segments import frame_labels
from vmae_jax.data.video import Encoded, Side, VideoInfo
from vmae_jax.eval.frames import frames
from vmae_jax.methods import segmentation
from vmae_jax.methods.segmentation import actions
from vmae_jax.models.variants import vit
from vmae_jax.train import schedule
from vmae_jax.train.optim import adamw
from vmae_jax.train.schedule import Clock
from vmae_jax.train.state import make_init
from vmae_jax.train.step import make_step
from vmae_jax.types import Context

MODEL = vit("micro", frames=4, resolution=16, depth=1, dtype="float32")
SEGMENTS = segmentation.build(MODEL, {"actions": actions(2)}, init_scale=1.0)
ROWS = 8
# 60 frames, ten a second: background, the first action from 1 to 2.5 seconds, background, the second one from 4 to 5.
TABLE = b"begin,end,label\n1,2.5,0\n4,5,1\n"
INFO = VideoInfo(num_frames=60, rate=10.0, times=np.arange(60) / 10.0, height=16, width=16)
RECORDING = Recording(Encoded(data=b""), INFO, Side(data=TABLE))
VIDEO = np.random.default_rng(5).integers(90, 130, (60, 16, 16, 3)).astype(np.uint8)
VIDEO[10:25, 4:12, 4:12, 0] = 250  # a red square, then a blue one
VIDEO[40:50, 4:12, 4:12, 2] = 250


def windows(shown):
    """A batch of clips of these frames of the video, with their labels as the stream reads them."""
    stream, out = frame_labels(2), np.zeros((len(shown), 4, 2), bool)
    clips = [Clip(one, INFO.times[one], (0.0, 0.0), (16, 16), None, (0, 0)) for one in shown]
    stream.read(RECORDING, clips, {"": out})
    return batch_of(len(shown), video=VIDEO[shown], actions=out, actions_valid=np.ones(len(shown), bool))


@pytest.fixture(scope="module")
def begun():
    """The first state, and its step."""
    batch = windows(np.arange(4) + np.arange(ROWS)[:, None])
    boxed = jax.eval_shape(SEGMENTS.init, jax.random.key(0), batch)[0]
    tx, _ = adamw(schedule.constant(3e-3), weight_decay=0.0).build(boxed, Clock(100, 1.0, ROWS))
    state = meta.unbox(jax.jit(make_init(SEGMENTS, tx))(jax.random.key(1), batch))
    return state, jax.jit(make_step(SEGMENTS, tx))


def test_a_video_with_two_actions_is_segmented(begun):
    """From clips of which half show an action; judged on consecutive clips of the whole video."""
    state, step = begun
    sampler = foreground(4, 1).informed(RECORDING)
    for number in range(60):
        seeds = [np.array([number, row], np.uint32) for row in range(ROWS)]
        state, metrics = step(state, windows(np.concatenate([sampler(INFO, seed) for seed in seeds])))
    assert metrics["finite"]
    tiles = np.arange(56).reshape(-1, ROWS // 4 * 7, 4)
    found = frames()(SEGMENTS, state.params, [windows(part) for part in tiles])
    assert found["actions_exact"] > 0.95
    assert found["actions_mAP"] > 0.95
    assert (found["actions_frames"], round(found["actions_foreground"] * 56)) == (56, 25)


def test_background_alone_has_a_finite_loss_and_gradient(begun):
    state, step = begun
    metrics = step(state, windows(np.tile(np.arange(55, 59), (ROWS, 1))))[1]
    assert metrics["finite"]
    assert float(metrics["loss"]) > 0
    assert metrics["actions_recall"] == 0
    _without, metrics = step(
        state, {**windows(np.tile(np.arange(4), (ROWS, 1))), "actions_valid": np.zeros(ROWS, bool)}
    )
    assert metrics["finite"]
    assert metrics["loss"] == 0


@pytest.mark.parametrize(("gamma", "alpha"), [(0.0, None), (0.0, 0.25), (2.0, 0.25)])
def test_the_error_is_that_of_the_papers(gamma, alpha):
    """Cross-entropy, balanced, and focal, by their probabilities in float64; finite where these are 0 or 1."""
    draw = np.random.default_rng(0)
    logits, shown = draw.normal(size=(3, 4, 2)) * 3, draw.random((3, 4, 2)) < 0.4
    p = 1 / (1 + np.exp(-logits))
    right = np.where(shown, p, 1 - p)
    weight = 1.0 if alpha is None else np.where(shown, alpha, 1 - alpha)
    expected = (-weight * (1 - right) ** gamma * np.log(right)).mean((1, 2))
    head = actions(2, gamma=gamma, alpha=alpha)
    np.testing.assert_allclose(head.error(jnp.float32(logits), jnp.asarray(shown)), expected, rtol=2e-5)
    ends = jnp.float32([[[-1e4, 1e4]]])
    slope = jax.grad(lambda x: head.error(x, jnp.asarray([[[False, True]]])).sum())(ends)
    assert np.isfinite(slope).all()


def test_outputs_are_of_frames_and_features_are_what_the_head_reads():
    two = segmentation.build(MODEL, {"verb": actions(3, "verb"), "noun": actions(5, "noun")}, init_scale=1.0)
    batch = batch_of(2)
    params = meta.unbox(jax.jit(two.init)(jax.random.key(0), batch)[0])
    outputs = np.asarray(jax.jit(two.predict)(params, batch))
    assert outputs.shape == (2, 4 * 8)
    verbs, nouns = outputs[:, :12].reshape(2, 4, 3), outputs[:, 12:].reshape(2, 4, 5)
    for part in (verbs, nouns):
        np.testing.assert_array_equal(part[:, 0], part[:, 1])  # frames of a slot
        assert (part[:, 1] != part[:, 2]).any()
    features = np.asarray(jax.jit(two.features)(params, batch))
    own = features @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(own[:, :3], verbs.mean(1), atol=1e-5)
    np.testing.assert_allclose(own[:, 3:], nouns.mean(1), atol=1e-5)
    assert two.expects == {"verb": {"classes": 3}, "noun": {"classes": 5}}
    assert [head.kind for head in two.heads.values()] == ["frames", "frames"]
    shown = {name: np.zeros((2, 4, count), bool) for name, count in (("verb", 3), ("noun", 5))}
    there = {"verb_valid": np.array([True, False]), "noun_valid": np.array([True, True])}
    terms = two.loss(params, {**batch, **shown, **there}, Context(jax.random.key(0), jnp.int32(0))).terms
    assert [float(one.count) for one in terms.values()] == [1, 2]
    np.testing.assert_allclose(terms["verb_cross_entropy"].total, np.log1p(np.exp(verbs[0])).mean(), rtol=1e-4)


def test_mistakes_of_segmentation():
    with pytest.raises(ValueError, match="heads is empty"):
        segmentation.build(MODEL, {})
    for options in ({"classes": 0}, {"weight": 0.0}, {"gamma": -1.0}, {"alpha": 1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            actions(**{"classes": 2, **options})
