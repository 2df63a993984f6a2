"""The classifier as a method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.methods import classify
from vmae_jax.models.variants import vit
from vmae_jax.types import Context

CONTEXT = Context(key=jax.random.key(0), step=jnp.zeros((), jnp.int32))


def test_loss_is_the_cross_entropy_of_the_logits():
    method = classify.build(vit("micro", frames=4, resolution=16, dtype="float32"), classes=5, init_scale=1.0)
    batch = batch_of(3)
    params = meta.unbox(jax.jit(method.init)(jax.random.key(0), batch)[0])
    loss = method.loss(params, batch, CONTEXT.replace(train=False))
    logits = method.predict(params, batch)
    expected = -jax.nn.log_softmax(logits)[jnp.arange(3), batch["label"]].sum()
    np.testing.assert_allclose(loss.terms["cross_entropy"].total, expected, rtol=1e-5)
    assert float(loss.terms["cross_entropy"].count) == 3
    hits = (logits.argmax(-1) == batch["label"]).sum()
    assert float(loss.metrics["top1"].total) == float(hits)


def test_smoothing_and_soft_labels_agree():
    model = vit("micro", frames=4, resolution=16, dtype="float32")
    batch = batch_of(3)
    smooth = classify.build(model, classes=5, smoothing=0.1, init_scale=1.0)
    params = meta.unbox(jax.jit(smooth.init)(jax.random.key(0), batch)[0])
    soft = {**batch, "label": jax.nn.one_hot(batch["label"], 5) * 0.9 + 0.02}
    plain = classify.build(model, classes=5, init_scale=1.0)
    a = smooth.loss(params, batch, CONTEXT).terms["cross_entropy"].total
    b = plain.loss(params, soft, CONTEXT).terms["cross_entropy"].total
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_dropout_only_while_training():
    method = classify.build(
        vit("micro", frames=4, resolution=16, dtype="float32"), classes=5, dropout=0.5, init_scale=1.0
    )
    batch = batch_of(3)
    params = meta.unbox(jax.jit(method.init)(jax.random.key(0), batch)[0])
    quiet = CONTEXT.replace(train=False)
    losses = [float(method.loss(params, batch, c).terms["cross_entropy"].total) for c in (CONTEXT, quiet, quiet)]
    assert losses[1] == losses[2] != losses[0]


def test_mistakes():
    model = vit("micro", frames=4, resolution=16)
    with pytest.raises(ValueError, match="at least 2 classes"):
        classify.build(model, classes=1)
    with pytest.raises(ValueError, match="smoothing"):
        classify.build(model, classes=5, smoothing=1.0)
