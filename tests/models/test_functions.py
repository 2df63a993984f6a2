"""The norm and the GELU with gradients of their own: the plain formulas, and less kept."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from vmae_jax.models.functions import gelu, layer_norm


def values(shape, scale=1.0, shift=0.0, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale + shift, jnp.float32)


def kept(function, *arrays):
    """Bytes that the backward pass keeps, beyond the arguments."""
    _, back = jax.eval_shape(lambda *a: jax.vjp(function, *a), *arrays)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(back)) - sum(a.nbytes for a in arrays)


def test_gelu_is_the_exact_one():
    x = jnp.concatenate([values((4000,), 3.0), jnp.asarray([-12.0, -6.0, 0.0, 6.0, 12.0])])
    plain = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
    np.testing.assert_allclose(gelu(x), plain(x), rtol=1e-6, atol=1e-7)
    slope, wanted = (jax.vmap(jax.grad(f))(x) for f in (gelu, plain))
    np.testing.assert_allclose(slope, wanted, rtol=1e-5, atol=1e-6)


def test_gelu_keeps_its_input_alone():
    x = values((64, 32))
    assert kept(gelu, x) <= 0 < kept(lambda x: jax.nn.gelu(x, approximate=False), x)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, 100.0), (30.0, -5.0)])
def test_norm_is_flax_norm(scale, shift):
    x, weight, bias = values((6, 5, 24), scale, shift), values((24,), seed=1), values((24,), seed=2)
    flax = nn.LayerNorm(epsilon=1e-6, use_fast_variance=False)

    def plain(x, weight, bias):
        return flax.apply({"params": {"scale": weight, "bias": bias}}, x)

    np.testing.assert_allclose(layer_norm(x, weight, bias), plain(x, weight, bias), rtol=1e-5, atol=1e-5)
    results = [
        jax.grad(lambda *a, f=f: jnp.sin(f(*a)).sum(), argnums=(0, 1, 2))(x, weight, bias) for f in (layer_norm, plain)
    ]
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())


def test_gradients_against_differences():
    check_grads(gelu, (values((3, 4)),), order=1, modes=("rev",), atol=1e-2, rtol=1e-2)
    arguments = values((3, 8)), values((8,), seed=1), values((8,), seed=2)
    check_grads(layer_norm, arguments, order=1, modes=("rev",), atol=1e-2, rtol=1e-2)


def test_norm_keeps_its_input_and_two_numbers_a_row():
    x, weight, bias = values((64, 32)), jnp.ones(32), jnp.zeros(32)
    assert kept(layer_norm, x, weight, bias) <= 2 * 64 * 4


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_computes_in_float32(dtype):
    x = values((8, 16)).astype(dtype)
    assert gelu(x).dtype == dtype
    assert layer_norm(x, jnp.ones(16), jnp.zeros(16)).dtype == jnp.float32
    np.testing.assert_array_equal(gelu(x), gelu(x.astype(jnp.float32)).astype(dtype))
    assert jax.grad(lambda x: layer_norm(x, jnp.ones(16), jnp.zeros(16)).sum())(x).dtype == dtype
