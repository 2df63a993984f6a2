"""Cross-attention, its blocks, and the decoder of two views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from vmae_jax.models.cross import CrossBlock, MultiHead

KEYS = jax.random.split(jax.random.key(7), 3)


def tokens(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


X, MEMORY = tokens(3, 4, 16), tokens(3, 7, 16, seed=1)


def attention(**options):
    module = MultiHead(4, **options)
    params = meta.unbox(module.init(jax.random.key(0), X, MEMORY)["params"])
    return module, jax.tree.map(lambda leaf: leaf + 0.1 * tokens(*leaf.shape, seed=2), params)


def by_hand(params, x, memory):
    """Every head by itself."""
    q, k, v = (
        given @ params[name]["kernel"] + params[name].get("bias", 0)
        for given, name in ((x, "query"), (memory, "key"), (memory, "value"))
    )
    heads = []
    for part in np.split(np.arange(16), 4):
        scores = q[..., part] @ k[..., part].swapaxes(1, 2) / 2.0
        heads.append(jax.nn.softmax(scores, axis=-1) @ v[..., part])
    return jnp.concatenate(heads, axis=-1) @ params["proj"]["kernel"] + params["proj"]["bias"]


@pytest.mark.parametrize("form", ["plain", "mapped"])
def test_attention_to_other_tokens(form):
    module, params = attention(form=form)
    found = module.apply({"params": params}, X, MEMORY)
    np.testing.assert_allclose(found, by_hand(params, X, MEMORY), rtol=0, atol=1e-5)
    assert "bias" not in params["key"]


def test_padding_of_the_memory_is_not_seen():
    for module, params in (attention(), attention(dropout=0.5)):
        for keys in (None, KEYS):
            valid = jnp.arange(7)[None] < jnp.array([7, 5, 5])[:, None]
            found = module.apply({"params": params}, X, MEMORY, keys, valid)
            other = MEMORY.at[1:, 5:].set(99.0)
            np.testing.assert_array_equal(found, module.apply({"params": params}, X, other, keys, valid))
            assert not np.array_equal(found, module.apply({"params": params}, X, other, keys))


def test_dropped_weights_have_the_right_mean_and_share():
    """Attention is linear in its weights, so the mean over many draws is the attention without dropout."""
    module, params = attention(dropout=0.25)
    many = 4000
    same = lambda x: jnp.broadcast_to(x[:1], (many, *x.shape[1:]))  # noqa: E731
    keys = jax.random.split(jax.random.key(1), many)
    found = jax.jit(module.apply)({"params": params}, same(X), same(MEMORY), keys)
    whole = module.apply({"params": params}, X, MEMORY)[0]
    assert np.abs(found.mean(axis=0) - whole).max() < 0.05
    assert np.abs(found.std(axis=0)).min() > 0.05
    # One memory token, one head of its own value: a quarter of the rows have nothing but the bias.
    lonely = jax.jit(module.apply)({"params": params}, same(X), same(MEMORY)[:, :1], keys)
    nothing = np.all(np.abs(lonely - params["proj"]["bias"]).max(axis=-1) < 1e-6, axis=1)
    assert nothing.mean() == pytest.approx(0.25 ** (4 * 4), abs=0.01)
    module, params = MultiHead(1, dropout=0.25), params
    lonely = jax.jit(module.apply)({"params": params}, same(X)[:, :1], same(MEMORY)[:, :1], keys)
    nothing = np.abs(lonely - params["proj"]["bias"]).max(axis=(1, 2)) < 1e-6
    assert nothing.mean() == pytest.approx(0.25, abs=0.03)


def block(norm):
    module = CrossBlock(4, 24, norm=norm)
    params = meta.unbox(module.init(jax.random.key(0), X, jnp.int32(0), MEMORY, None, None)["params"])
    params = jax.tree.map(lambda leaf: leaf + 0.1 * tokens(*leaf.shape, seed=3), params)
    return params, lambda memory=MEMORY: module.apply({"params": params}, X, jnp.int32(0), memory, None, None)[0]


def normed(params, name, x):
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * params[f"norm_{name}"]["scale"] + params[f"norm_{name}"]["bias"]


def mlp(params, x):
    hidden = jax.nn.gelu(x @ params["fc1"]["kernel"] + params["fc1"]["bias"], approximate=False)
    return hidden @ params["fc2"]["kernel"] + params["fc2"]["bias"]


def test_the_order_with_norms_after_the_sums():
    params, apply = block("post")
    x = normed(params, "cross", X + by_hand(params["cross_attention"], X, MEMORY))
    x = normed(params, "mlp", x + mlp(params, x))
    x = normed(params, "own", x + by_hand(params["attention"], x, x))
    np.testing.assert_allclose(apply(), x, rtol=0, atol=2e-5)


def test_the_order_with_norms_before_the_branches():
    params, apply = block("pre")
    x = X + by_hand(params["cross_attention"], normed(params, "cross", X), MEMORY)
    y = normed(params, "own", x)
    x = x + by_hand(params["attention"], y, y)
    x = x + mlp(params, normed(params, "mlp", x))
    np.testing.assert_allclose(apply(), x, rtol=0, atol=2e-5)


def test_blocks_drop_other_values():
    """The number of the block is part of its draws."""
    module = CrossBlock(4, 24, dropout=0.5)
    params = module.init(jax.random.key(0), X, jnp.int32(0), MEMORY, None, None)
    found = [module.apply(params, X, jnp.int32(number), MEMORY, KEYS, None)[0] for number in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
