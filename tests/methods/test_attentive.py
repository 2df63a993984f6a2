"""The attentive head: learns what a mean cannot, and as a probe never touches the backbone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.eval.attentive_probe import attentive_probe
from vmae_jax.methods import classify
from vmae_jax.models.pooling import attentive
from vmae_jax.models.variants import vit
from vmae_jax.spec import build, call
from vmae_jax.train.optim import adamw
from vmae_jax.train.schedule import Clock, warmup_cosine
from vmae_jax.train.state import make_init
from vmae_jax.train.step import make_step
from vmae_jax.types import Method


def probe():
    return classify.build(vit("micro", frames=4, resolution=16, dtype="float32"), classes=3, pool=attentive())


def test_the_pool_is_attention_from_one_query():
    """Written out with NumPy for one head."""
    pool = attentive(heads=1, mlp_ratio=1.0)(4)
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 4)), jnp.float32)
    p = jax.tree.map(np.asarray, meta.unbox(jax.jit(pool.init)(jax.random.key(0), tokens)["params"]))
    norm = lambda x, w: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * w["scale"]  # noqa: E731
    dense = lambda x, w: x @ w["kernel"] + w["bias"]  # noqa: E731
    seen = norm(np.asarray(tokens[0]), p["norm1"])
    scores = dense(seen, p["k"]) @ dense(p["query"], p["q"]) / 2.0
    weights = np.exp(scores) / np.exp(scores).sum()
    x = p["query"] + dense(weights @ dense(seen, p["v"]), p["proj"])
    hidden = np.asarray(jax.nn.gelu(dense(norm(x, p["norm2"]), p["mlp"]["fc1"]), approximate=False))
    np.testing.assert_allclose(pool.apply({"params": p}, tokens)[0], x + dense(hidden, p["mlp"]["fc2"]), atol=1e-5)


def test_a_probe_trains_the_head_and_leaves_the_encoder_bit_for_bit():
    method, batch = probe(), batch_of(classes=3)
    boxed = jax.eval_shape(lambda: method.init(jax.random.key(0), batch)[0])
    tx, _ = adamw(warmup_cosine(peak=1e-2, warmup={"steps": 0}), weight_decay=0.5, freeze=["encoder"]).build(
        boxed, Clock(5, 5, 4)
    )
    state = meta.unbox(make_init(method, tx)(jax.random.key(0), batch))
    before = jax.tree.map(np.asarray, state.params)
    step = jax.jit(make_step(method, tx))
    for _ in range(3):
        state, result = step(state, batch)
    assert np.isfinite(float(result["loss"]))
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], before["encoder"])
    assert not np.array_equal(state.params["pooled"]["query"], before["pooled"]["query"])
    assert not np.array_equal(state.params["head"]["kernel"], before["head"]["kernel"])
    assert set(state.opt_state.mu) == {"pooled", "head"}  # nor does the optimizer keep anything of it


def test_the_gradient_of_a_probe_does_not_run_through_the_encoder():
    """The compiler drops the encoder's backward pass where its parameters are frozen."""
    method, batch = probe(), batch_of(classes=3)
    boxed = jax.eval_shape(lambda: method.init(jax.random.key(0), batch)[0])

    def flops(freeze):
        tx, _ = adamw(warmup_cosine(peak=1e-2, warmup={"steps": 0}), freeze=freeze).build(boxed, Clock(5, 5, 4))
        state = jax.eval_shape(lambda key: meta.unbox(make_init(method, tx)(key, batch)), jax.random.key(0))
        compiled = jax.jit(make_step(method, tx)).lower(state, batch).compile()
        return compiled.as_text().count("while(")

    assert flops(["encoder"]) < flops([])


def test_heads_of_all_kinds_behind_the_pool_from_a_config():
    config = call(
        "methods.classify.build",
        model=call("models.variants.vit", size="micro", frames=4, resolution=16, dtype="float32"),
        heads={"verb": call("methods.labels.one", classes=3), "score": call("methods.labels.numbers", outputs=2)},
        pool=call("models.pooling.attentive", heads=2),
    )
    method = build(config)
    params = meta.unbox(jax.jit(method.init)(jax.random.key(0), batch_of(classes=3))[0])
    assert method.predict(params, batch_of(classes=3)).shape == (4, 5)
    assert method.features(params, batch_of(classes=3)).shape == (4, 32)
    assert method.features(params, batch_of(classes=3), pool=False).shape == (4, 8, 32)
    assert "fc_norm" not in params


def test_mistakes():
    with pytest.raises(ValueError, match="3 heads do not divide a width of 32"):
        attentive(heads=3)(32)
    with pytest.raises(ValueError, match="at least 1"):
        attentive(heads=0)
    with pytest.raises(ValueError, match="kind="):
        attentive_probe(None, attentive(), kind="x")


def tokens_of(count, seed):
    """One token of eight shows the class, at a random place; the mean shows almost nothing."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, count)
    tokens = random.normal(size=(count, 8, 16)).astype(np.float32) * 0.5
    place = random.integers(0, 8, count)
    tokens[np.arange(count), place, 0] = 6.0
    tokens[np.arange(count), place, 1] = np.where(label == 1, 2.0, -2.0)
    return tokens, label


def batches(tokens, label, rows=16):
    for start in range(0, len(label), rows):
        pick = np.minimum(np.arange(start, start + rows), len(label) - 1)
        valid = np.arange(start, start + rows) < len(label)
        index = np.where(valid, pick, -1)
        yield {"video": tokens[pick], "label": label[pick].astype(np.int32), "index": index, "valid": valid}


def test_the_evaluator_finds_the_informative_token():
    method = Method(
        init=lambda key, batch: (jnp.ones(()), None),
        loss=lambda *_: pytest.fail("a probe trains no backbone"),
        features=lambda params, batch, *, layer=None, pool=True: batch["video"],
    )
    one = attentive_probe(None, attentive(heads=1), epochs=30, batch=16, rate=3e-3)
    found = one(method, jnp.ones(()), batches(*tokens_of(37, 1)), batches(*tokens_of(150, 0)))
    assert found["top1"] > 0.85
    assert (found["videos"], found["train_videos"]) == (37, 150)
    small = attentive_probe(None, attentive(heads=1), memory=1e-6)
    with pytest.raises(ValueError, match=r"more than memory=1e-06 GiB.*freeze=\['encoder'\]"):
        small(method, jnp.ones(()), batches(*tokens_of(37, 1)), batches(*tokens_of(150, 0)))
    tokens, label = tokens_of(20, 1)
    unseen = one(
        method, jnp.ones(()), batches(tokens, np.where(np.arange(20) < 10, label, 2)), batches(*tokens_of(60, 0))
    )
    assert unseen["top1"] <= 0.5, "a class that training lacks is never right, and no mistake of the user's"
    with pytest.raises(ValueError, match=r"1 of 20 videos .* have no class: label is -1"):
        one(method, jnp.ones(()), batches(tokens, np.r_[-1, label[1:]]), batches(*tokens_of(60, 0)))
