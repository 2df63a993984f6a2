"""The attentive head: learns what a mean cannot, and as a probe never touches the backbone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from flax.traverse_util import flatten_dict
from random_batch import batch_of

from vmae_jax.eval.attentive_probe import Clips, attentive_probe
from vmae_jax.methods import classify
from vmae_jax.models.pooling import attentive, deep_attentive
from vmae_jax.models.variants import vit
from vmae_jax.spec import build, call
from vmae_jax.train.optim import adamw
from vmae_jax.train.schedule import Clock, warmup_cosine
from vmae_jax.train.state import make_init
from vmae_jax.train.step import make_step
from vmae_jax.types import Method

pytestmark = pytest.mark.slow


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
    with pytest.raises(ValueError, match="depth=0"):
        deep_attentive(depth=0)
    for wrong, message in (
        ({"kind": "x"}, "kind="),
        ({"clips": 0}, "clips must be at least 1"),
        ({"held_out": 1.0}, r"held_out in \[0, 1\)"),
        ({"rates": ()}, "one of each"),
        ({"rates": (0.0,)}, "rates must be above 0"),
        ({"weight_decays": (-0.1,)}, "weight_decays at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            attentive_probe(None, attentive(), **wrong)


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


def frozen(params, batch, *, layer=None, pool=True):
    """Tokens that are there already; those of a block are shifted."""
    return batch["video"] + (0 if layer is None else layer)


FROZEN = Method(
    init=lambda key, batch: (jnp.ones(()), None),
    loss=lambda *_: pytest.fail("a probe trains no backbone"),
    features=frozen,
)


def test_the_evaluator_finds_the_informative_token():
    method = FROZEN
    one = attentive_probe(None, attentive(heads=1), epochs=30, batch=16, rates=(3e-3,))
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


def test_heads_side_by_side_are_those_trained_alone():
    """One compiled step trains every pair of a rate and a weight decay; the best on held-out videos counts."""
    data = batches(*tokens_of(40, 1)), list(batches(*tokens_of(80, 0)))
    query = list(data[0])
    options = {"epochs": 8, "batch": 16, "warmup": 0.0}
    pool = attentive(heads=1)
    both = attentive_probe(None, pool, rates=(5e-3, 1e-6), weight_decays=(0.1,), held_out=0.0, **options)
    found = both(FROZEN, jnp.ones(()), query, data[1])
    alone = attentive_probe(None, pool, rates=(5e-3,), weight_decays=(0.1,), **options)
    first = alone(FROZEN, jnp.ones(()), query, data[1])
    assert {name: found[name] for name in first} == pytest.approx(dict(first), abs=1e-6)
    assert (found["rate"], found["weight_decay"], found["heads"]) == (5e-3, 0.1, 2)
    assert found["top1_worst"] < found["top1"] - 0.2
    assert found["top1_mean"] == pytest.approx((found["top1"] + found["top1_worst"]) / 2)
    apart = attentive_probe(None, pool, rates=(5e-3, 1e-6), weight_decays=(0.1,), held_out=0.25, **options)
    assert apart(FROZEN, jnp.ones(()), query, data[1])["train_videos"] == 60


def test_clips_and_blocks_become_one_sequence():
    SEEN.clear()
    look = lambda width: Looked(attentive(heads=1)(width))  # noqa: E731
    tokens, label = tokens_of(12, 0)
    videos = {"index": np.repeat(np.arange(6), 2).astype(np.int32), "valid": np.ones(12, bool)}
    data = [{"video": tokens, "label": np.repeat(label[:6], 2).astype(np.int32), **videos}]
    one = attentive_probe(None, look, epochs=1, batch=3, clips=2, layers=(1, 2))
    found = one(FROZEN, jnp.ones(()), data, data)
    assert found["videos"] == 6
    assert {shape[1:] for shape in SEEN} == {(2 * 2 * 8, 16)}
    again = Clips(tokens, data[0]["label"], videos["index"]).together(2)
    np.testing.assert_array_equal(again.tokens[3], tokens[6:8].reshape(16, 16))
    np.testing.assert_array_equal(again.index, np.arange(6))
    with pytest.raises(ValueError, match=r"clips=3: videos have 2 to 2 clips"):
        attentive_probe(None, look, epochs=1, clips=3)(FROZEN, jnp.ones(()), data, data)


SEEN = []


class Looked(nn.Module):
    """A pool that notes the shapes it is given."""

    pool: nn.Module

    def __call__(self, tokens):
        SEEN.append(tokens.shape)
        return self.pool(tokens)


def test_the_deep_pool_begins_as_the_official_one():
    pool = deep_attentive(depth=4, heads=4)(64)
    params = meta.unbox(jax.jit(pool.init)(jax.random.key(0), jnp.ones((1, 5, 64)))["params"])
    spread = {path: np.std(value) for path, value in flatten_dict(params, sep="/").items() if path.endswith("kernel")}
    assert "proj/kernel" not in spread
    for name in ("attention/proj", "mlp/fc2"):
        each = np.std(flatten_dict(params["blocks"], sep="/")[f"{name}/kernel"], axis=(1, 2))
        np.testing.assert_allclose(each, 0.02 / np.sqrt([2, 4, 6]), rtol=0.05)
    assert spread["mlp/fc2/kernel"] == pytest.approx(0.02 / np.sqrt(6), rel=0.05)
    assert spread["mlp/fc1/kernel"] == pytest.approx(0.02, rel=0.05)
