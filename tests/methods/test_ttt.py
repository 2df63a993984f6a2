"""Test-time training: the two errors of joint training, and the one of the adaptation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.masking.random import random
from vmae_jax.masking.tube import tube
from vmae_jax.methods import masked, ttt
from vmae_jax.methods.ttt import Reconstruction
from vmae_jax.models.variants import vit
from vmae_jax.spec import ConfigError
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context

CLASSES = 5
MODEL = vit("micro", frames=4, resolution=16, decoder_depth=1, dtype="float32", unroll=0)
OBJECTIVES = {"pixels": objective(pixels(normalize=False), weight=0.5)}
BUILD = functools.partial(ttt.build, MODEL, CLASSES, random(0.75), OBJECTIVES, init_scale=1.0)
HIDDEN = BUILD()
CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
BATCH = batch_of(valid=np.arange(4) != 3)


@functools.cache
def weights():
    shapes = jax.eval_shape(lambda: meta.unbox(HIDDEN.init(jax.random.key(0), BATCH)[0]))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)


@functools.cache
def found():
    """Everything that the tests compare, in one program."""

    def compute(params):
        adapted = {name: one for name, one in BATCH.items() if name != "label"}
        value = lambda params: HIDDEN.adaptation.loss(params, adapted, CONTEXT).terms["pixels"].total  # noqa: E731
        alone = masked.build(MODEL, random(0.75), OBJECTIVES)
        own = Reconstruction(MODEL, random(0.75), None, OBJECTIVES, everywhere=True)
        done = own.forward(params, BATCH, CONTEXT)
        return {
            "loss": HIDDEN.loss(params, BATCH, CONTEXT),
            "outputs": HIDDEN.predict(params, BATCH),
            "alone": alone.loss(params, BATCH, CONTEXT),
            "adaptation": jax.value_and_grad(value)(params),
            "everywhere": (own.terms(done), own.errors(done), done.masks),
            "features": (HIDDEN.features(params, BATCH), HIDDEN.features(params, BATCH, pool=False)),
        }

    return jax.device_get(jax.jit(compute)(weights()))


def test_the_loss_is_that_of_a_classifier_and_that_of_an_autoencoder():
    loss, outputs = found()["loss"], np.asarray(found()["outputs"], np.float64)
    right = outputs[np.arange(3), BATCH["label"][:3]]  # the last row only pads the batch
    expected = (np.log(np.exp(outputs[:3]).sum(1)) - right).sum()
    np.testing.assert_allclose(loss.terms["cross_entropy"].total, expected, rtol=1e-5)
    alone = found()["alone"].terms["pixels"]
    assert float(loss.terms["pixels"].weight) == 0.5
    np.testing.assert_allclose(loss.terms["pixels"].total, alone.total, rtol=1e-6)
    assert float(loss.terms["pixels"].count) == float(alone.count) == 3 * 6  # of 8 tokens a clip
    assert loss.metrics.keys() == {"top1"}


def test_the_adaptation_reads_no_labels_and_trains_no_head():
    total, grads = found()["adaptation"]
    np.testing.assert_allclose(total, found()["loss"].terms["pixels"].total, rtol=1e-6)
    assert HIDDEN.adaptation.trains == ("encoder", "decoder")
    assert HIDDEN.adaptation.inputs == ("video",)
    for name, tree in grads.items():
        moved = max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))
        assert (moved > 0) == (name in HIDDEN.adaptation.trains), name


def test_all_tokens_can_count():
    terms, errors, masks = found()["everywhere"]
    assert masks.decode.tolist() == [list(range(8))] * 4
    assert float(terms["pixels"].count) == 3 * 8
    np.testing.assert_allclose(terms["pixels"].total, errors["pixels"][:3].sum(), rtol=1e-6)
    own = Reconstruction(MODEL, random(0.75), None, OBJECTIVES, everywhere=True)
    assert own.plan(BATCH, decode_all=True).decode.shape == (4, 6)  # of pictures


def test_features_are_what_the_head_reads():
    pooled, tokens = found()["features"]
    mean = np.asarray(tokens, np.float64).mean(axis=1)
    norm = weights()["fc_norm"]
    scaled = (mean - mean.mean(1, keepdims=True)) / np.sqrt(mean.var(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(pooled, scaled * norm["scale"] + norm["bias"], rtol=1e-3, atol=1e-4)
    head = weights()["head"]
    np.testing.assert_allclose(found()["outputs"], pooled @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-4)


def test_what_a_method_declares():
    assert HIDDEN.supervision == ("label",)
    assert HIDDEN.reconstruct is not None
    HIDDEN.check(BATCH)
    with pytest.raises(ConfigError, match="there are 5 classes, 0 to 4"):
        HIDDEN.check(BATCH | {"label": np.full(4, 5)})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objectives": {}}, "objectives is empty"),
        ({"objectives": {"cross_entropy": OBJECTIVES["pixels"]}}, "choose another name"),
        ({"classes": 1}, "at least 2 classes"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\)"),
    ],
)
def test_mistakes(options, words):
    given = {"classes": CLASSES, "mask": tube(0.75), "objectives": OBJECTIVES, **options}
    with pytest.raises(ValueError, match=words):
        ttt.build(MODEL, **given)


def test_masks_of_other_streams_are_declared():
    motion = random(0.75)._replace(inputs=("motion",))
    method = ttt.build(MODEL, CLASSES, motion, OBJECTIVES)
    assert method.adaptation.inputs == ("video", "motion")
    assert method.supervision == ("label", "motion")
