"""Fingerprints: equal on every layout and on the host, different for any change."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vmae_jax.io import fingerprint

DTYPES = [np.float32, ml_dtypes.bfloat16, np.float16, np.int32, np.int8, np.uint8, np.uint32, np.bool_, np.complex64]
DTYPES += [ml_dtypes.float8_e4m3fn]


def of(*leaves):
    """As the devices compute it."""
    return fingerprint.examine(list(leaves), small=0).fingerprints


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (7,), (8, 3, 5)])
def test_host_and_device_agree(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    assert of(jnp.asarray(array)) == [fingerprint.of_numpy(array)]


@pytest.mark.parametrize(
    ("array", "known"),
    [
        (np.array([1, 2, 2**32 - 1, 0], np.uint32), "3e884694"),
        (np.array([1.0, -2.5, 3e38], np.float32), "2b794a11"),
        (np.array([250, 0, 7], np.uint8), "0d686cf5"),
    ],
)
def test_fingerprints_stay_what_they_are(array, known):
    """Worked out in whole numbers. Any other constant would make every stored checkpoint a damaged one."""
    assert [fingerprint.of_numpy(array)] == of(jnp.asarray(array)) == [known]


@pytest.mark.parametrize("spec", [P(), P("a"), P("a", "b"), P(None, "c"), P(("a", "b", "c"))])
def test_sharding_does_not_matter(spec):
    mesh = jax.make_mesh((2, 2, 2), ("a", "b", "c"), axis_types=(AxisType.Auto,) * 3)
    array = np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)
    sharded = jax.device_put(array, NamedSharding(mesh, spec))
    assert of(sharded, jax.device_put(array, jax.devices()[3])) == [fingerprint.of_numpy(array)] * 2


def test_typed_keys_are_their_data():
    keys = jax.random.split(jax.random.key(3), 4)
    assert of(keys) == [fingerprint.of_numpy(np.asarray(jax.random.key_data(keys)))]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4095), st.integers(0, 31), st.integers(0, 4095), st.integers(0, 31))
def test_flipped_bits_are_seen(first, bit, second, other):
    array = np.random.default_rng(2).integers(0, 2**32, 4096, dtype=np.uint32)
    one = array.copy()
    one[first] ^= np.uint32(1 << bit)
    assert fingerprint.of_numpy(one) != fingerprint.of_numpy(array)
    if first != second:  # for example two signs: a plain weighted sum cancels them
        one[second] ^= np.uint32(1 << other)
        assert fingerprint.of_numpy(one) != fingerprint.of_numpy(array)


def test_exchanged_values_and_large_arrays_are_seen(monkeypatch):
    array = np.arange(1000, dtype=np.float32)
    swapped = array.copy()
    swapped[[3, 900]] = swapped[[900, 3]]
    assert of(jnp.asarray(swapped)) != of(jnp.asarray(array))
    whole = fingerprint.of_numpy(array)
    monkeypatch.setattr(fingerprint, "CHUNK", 64)
    assert fingerprint.of_numpy(array) == whole


def test_what_is_not_finite_is_counted_and_small_states_are_examined_on_the_host(monkeypatch):
    bad = jnp.array([1.0, jnp.nan, jnp.inf, -jnp.inf], jnp.bfloat16)
    leaves = [bad, jnp.ones(3), jnp.int32(4), jax.random.key(0)]
    found = fingerprint.examine(leaves, small=0)
    assert found.not_finite == [3, 0, 0, 0]
    monkeypatch.delattr(fingerprint, "_examine")  # the pass on the devices
    on_host = fingerprint.examine(leaves)
    assert (on_host.fingerprints, on_host.not_finite) == (found.fingerprints, found.not_finite)
