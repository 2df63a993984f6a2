"""Unmasking Deepfakes: pictures of flow, the autoencoder of them, and the two streams with their mean score."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.eval.scores import auc
from vmae_jax.masking.random import random
from vmae_jax.methods import deepfakes, masked
from vmae_jax.methods.deepfakes import flow_pictures, scores
from vmae_jax.models.raft import Raft
from vmae_jax.models.variants import vit
from vmae_jax.spec import ConfigError
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context

SHAPE = {"frames": 1, "tubelet": 1, "resolution": 16, "depth": 1, "decoder_depth": 1, "dtype": "float32", "unroll": 0}
SPATIAL = vit("micro", **SHAPE)
TEMPORAL = vit("micro", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), **SHAPE)
RAW = {"pixels": objective(pixels(normalize=False, mean=0.5, deviation=0.5))}
METHOD = deepfakes.build(SPATIAL, TEMPORAL, init_scale=1.0)
AUTOENCODER = deepfakes.pretrain(TEMPORAL, random(0.75), RAW)
CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
BATCH = batch_of(classes=2, valid=np.arange(4) != 3)


def difference(self, params, frames, pairs):
    """In place of RAFT: 40 pixels for the whole range of colours, scaled by a parameter."""
    assert (float(self.iterations), frames.shape[-1]) == (6, 3)
    two = [20 * params["scale"] * (frames[:, second] - frames[:, first])[..., :2] for first, second in pairs]
    return jnp.stack(two, axis=1)


@pytest.fixture(autouse=True)
def _no_raft(monkeypatch):
    monkeypatch.setattr(Raft, "flow", difference)
    monkeypatch.setattr(Raft, "init", lambda self, key: {"scale": jnp.ones(())})


def weights(method):
    shapes = jax.eval_shape(lambda: meta.unbox(method.init(jax.random.key(0), BATCH)[0]))
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)
    return {**drawn, "flow": {"scale": jnp.ones(())}}


@functools.cache
def streams():
    @jax.jit
    def run(params, batch):
        def total(params):
            loss = METHOD.loss(params, batch, CONTEXT)
            return sum(term.total / term.count for term in loss.terms.values()), loss

        (_, loss), grads = jax.value_and_grad(total, has_aux=True)(params)
        return METHOD.predict(params, batch), loss, grads, METHOD.features(params, batch)

    return lambda batch: jax.device_get(run(weights(METHOD), batch))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_pictures_of_flow():
    flow = np.zeros((1, 2, 2, 2), np.float32)
    flow[0, 0, 1], flow[0, 1, 0], flow[0, 1, 1] = (10, 0), (-50, 3), (3, -4)
    picture = np.asarray(flow_pictures(flow, 20.0))[0]
    np.testing.assert_allclose(picture[0, 0], [127.5, 127.5, 0])  # nothing moves
    np.testing.assert_allclose(picture[0, 1], [191.25, 127.5, 127.5])
    np.testing.assert_allclose(picture[1, 0], [0, 146.625, 255])  # out of reach
    np.testing.assert_allclose(picture[1, 1], [146.625, 102, 63.75])
    mirrored = np.asarray(flow_pictures(flow * [-1, 1], 20.0))[0]
    np.testing.assert_allclose(mirrored[..., 0], 255 - picture[..., 0])
    np.testing.assert_allclose(mirrored[..., 1:], picture[..., 1:])


def test_the_autoencoder_sees_the_flow_of_the_first_two_frames():
    params = weights(AUTOENCODER)
    frames = BATCH["video"].astype(np.float32) / 127.5 - 1
    flow = 20 * (frames[:, 1] - frames[:, 0])[..., :2]
    seen = {**BATCH, "video": np.asarray(flow_pictures(flow, 20.0))[:, None]}
    plain = masked.build(TEMPORAL, random(0.75), RAW)
    found, expected = (
        jax.jit(lambda params, batch, of=of: (of.loss(params, batch, CONTEXT), of.features(params, batch)))
        for of in (AUTOENCODER, plain)
    )
    (loss, features), (plain_loss, plain_features) = found(params, BATCH), expected(params, seen)
    np.testing.assert_allclose(loss.terms["pixels"].total, plain_loss.terms["pixels"].total, rtol=1e-5)
    np.testing.assert_allclose(features, plain_features, rtol=1e-4, atol=1e-5)
    later = {**BATCH, "video": np.concatenate([BATCH["video"][:, :2], 255 - BATCH["video"][:, 2:]], axis=1)}
    np.testing.assert_array_equal(found(params, later)[1], features)
    assert AUTOENCODER.frame_features is None  # a single picture has no flow


def test_a_score_is_the_mean_of_two_streams():
    outputs, loss, grads, features = streams()(BATCH)
    fused, spatial, temporal = (np.exp(outputs[:, 2 * i : 2 * i + 2].astype(np.float64)) for i in range(3))
    for one in (fused, spatial, temporal):
        np.testing.assert_allclose(one.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(fused, (spatial + temporal) / 2, rtol=1e-5)
    assert np.abs(spatial - temporal).max() > 0.05
    hits = fused.argmax(1) == BATCH["label"]
    assert float(loss.metrics["top1_fused"].total) == hits[:3].sum()  # the last row only pads the batch
    assert set(loss.terms) == {"spatial", "temporal"}
    assert features.shape == (4, 64)
    assert float(grads["flow"]["scale"]) == 0
    assert all(np.abs(leaf).max() > 0 for name in loss.terms for leaf in jax.tree.leaves(grads[name]["head"]))


def test_the_loss_is_the_mean_over_frames_and_pairs():
    one = METHOD.loss.__self__
    logits = jax.jit(lambda params, batch: one.logits(params, batch, train=False))(weights(METHOD), BATCH)
    loss = streams()(BATCH)[1]
    for name, count in (("spatial", 4), ("temporal", 3)):
        out = np.asarray(logits[name], np.float64)
        assert out.shape == (4, count, 2)
        right = softmax(out)[np.arange(4)[:, None], np.arange(count), BATCH["label"][:, None]]
        np.testing.assert_allclose(loss.terms[name].total, -np.log(right).mean(1)[:3].sum(), rtol=1e-4)
        assert float(loss.terms[name].count) == 3


def test_the_order_of_frames_changes_only_the_temporal_score():
    forward, backward = (
        streams()({**BATCH, "video": BATCH["video"][:, order]})[0] for order in ([0, 1, 2, 3], [3, 2, 1, 0])
    )
    np.testing.assert_allclose(forward[:, 2:4], backward[:, 2:4], rtol=1e-4, atol=1e-5)
    assert np.abs(forward[:, 4:] - backward[:, 4:]).max() > 1e-2
    still = {**BATCH, "video": np.repeat(BATCH["video"][:, :1], 4, axis=1)}
    np.testing.assert_allclose(*streams()(still)[0][:2, 4:], rtol=1e-4)  # no motion: one temporal score for all


def test_both_streams_together_find_forgeries_that_each_alone_misses():
    """Forgeries of one kind show in frames, those of the other in motion; the scores are noisy."""
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1, 1], 60)
    seen = {"spatial": np.repeat([0, 1, 0], 60), "temporal": np.repeat([0, 0, 1], 60)}
    logits = {
        name: np.stack([0 * one, 3 * one + rng.normal(0, 1, 180)], axis=-1)[:, None] for name, one in seen.items()
    }
    areas = {name: auc(np.asarray(one)[:, 1], label == 1) for name, one in scores(logits).items()}
    assert areas["fused"] > max(areas["spatial"], areas["temporal"]) + 0.05
    assert min(areas.values()) > 0.6


def test_what_a_method_declares_and_refuses():
    assert list(METHOD.heads) == ["fused", "spatial", "temporal"]
    METHOD.check(BATCH)
    with pytest.raises(ConfigError, match="there are 2 classes, 0 to 1"):
        METHOD.check(BATCH | {"label": np.full(4, 2)})
    with pytest.raises(ValueError, match=r"at least two frames; set config\.data\.sampler\.frames=2"):
        METHOD.predict(weights(METHOD), {**BATCH, "video": BATCH["video"][:, :1]})
    with pytest.raises(ValueError, match="objectives is empty"):
        deepfakes.pretrain(TEMPORAL, random(0.75), {})
    for options in ({"iterations": 0}, {"reach": 0.0}, {"reach": float("inf")}):
        with pytest.raises(ValueError, match="at least 1, and a number of pixels above 0"):
            deepfakes.build(SPATIAL, TEMPORAL, **options)


def test_drop_path_draws_for_each_picture():
    model = vit("micro", **{**SHAPE, "depth": 2}, drop_path=0.9)
    one = deepfakes.build(model, model, init_scale=1.0)
    same = {**BATCH, "video": np.repeat(BATCH["video"][:1, :1], 4, axis=1).repeat(4, axis=0)}
    train = jax.jit(lambda params: one.loss.__self__.logits(params, same, train=True)["spatial"])(weights(one))
    rows = np.asarray(train)[..., 0].ravel()
    assert len(np.unique(rows.round(5))) > 1  # the pictures are equal, what is dropped is not
