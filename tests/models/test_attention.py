"""Every form of attention is the plain one: values, gradients, padding, and on a mesh."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.models import attention
from vmae_jax.models.attention import attend, form_for
from vmae_jax.models.variants import vit
from vmae_jax.train import sharding

FAST = {
    "mapped": functools.partial(attend, form="mapped"),
    "splash": lambda q, k, v, valid=None: attention.splash(q, k, v, valid, interpret=True),
}


def inputs(shape, keys=None, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    b, h, n, k = shape
    sizes = (shape, (b, h, keys or n, k), (b, h, keys or n, k))
    return [jnp.asarray(rng.normal(size=size), dtype) for size in sizes]


def value_and_grads(function, arrays, **named):
    def loss(*arrays):
        out = function(*arrays, **named).astype(jnp.float32)
        return jnp.sin(out).sum(), out

    (_, out), grads = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*arrays)
    return [np.asarray(x, np.float32) for x in (out, *grads)]


def close(found, wanted, forward=1e-5, backward=1e-4):
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        np.testing.assert_allclose(a, b, rtol=0, atol=(backward if i else forward) * np.abs(b).max())


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("padded", [False, True])
def test_values_and_gradients_are_those_of_the_plain_form(form, padded):
    arrays = inputs((2, 2, 72, 8))
    named = {}
    if padded:
        named["valid"] = jnp.asarray(np.random.default_rng(1).random((2, 72)) < 0.7).at[:, 0].set(True)
    close(
        value_and_grads(FAST[form], arrays, **named),
        value_and_grads(functools.partial(attend, form="plain"), arrays, **named),
    )


def test_more_keys_than_queries():
    arrays = inputs((1, 3, 20, 8), keys=36)
    plain = functools.partial(attend, form="plain")
    close(value_and_grads(FAST["mapped"], arrays), value_and_grads(plain, arrays))


def test_bfloat16_is_as_near_to_float32_as_the_plain_form_is():
    arrays = inputs((1, 2, 64, 16), dtype=jnp.bfloat16)
    exact = value_and_grads(functools.partial(attend, form="plain"), [x.astype(jnp.float32) for x in arrays])
    close(value_and_grads(FAST["mapped"], arrays), exact, forward=2e-2, backward=4e-2)


def test_keys_that_are_padding_get_no_gradient_and_change_nothing():
    q, k, v = inputs((1, 2, 40, 8))
    valid = jnp.arange(40)[None] < 25
    out, *grads = value_and_grads(FAST["mapped"], (q, k, v), valid=valid)
    np.testing.assert_array_equal(np.stack(grads[1:])[:, :, :, 25:], 0.0)
    junk = jnp.where(valid[:, None, :, None], 0.0, 1e3)
    np.testing.assert_array_equal(attend(q, k + junk, v + junk, valid=valid, form="mapped"), out)


@pytest.mark.parametrize("shape", [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 8}])
def test_each_device_works_on_its_own_rows_and_heads(shape):
    """On a mesh the mapped form is the same, splits what divides, and needs no communication."""
    mesh = sharding.make_mesh(shape)
    arrays = inputs((8, 2, 16, 8))
    wanted = value_and_grads(functools.partial(attend, form="plain"), arrays)

    def split(*arrays):
        with attention.nn.logical_axis_rules(sharding.RULES):
            return attend(*arrays, form="mapped")

    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(sharding.BATCH))
    with jax.set_mesh(mesh):
        jitted = jax.jit(split, in_shardings=(place,) * 3)
        text = jitted.lower(*arrays).compile().as_text()
        close(value_and_grads(jitted, arrays), wanted)
    assert "all-reduce" not in text
    rows = 8 // (shape["data"] * shape.get("fsdp", 1))
    heads = 2 // shape.get("tensor", 1)
    assert f"f32[{rows * heads},16,8]" in text


def test_the_form_follows_platform_length_and_dtype(monkeypatch):
    long, short = (4, 3, 944, 64), (4, 6, 160, 64)

    def on(platform, capability=0.0, kind=""):
        device = SimpleNamespace(device_kind=kind, compute_capability=str(capability))
        monkeypatch.setattr(jax, "default_backend", lambda: platform)
        monkeypatch.setattr(jax, "local_devices", lambda: [device])
        return lambda shape, dtype=jnp.bfloat16, masked=False: form_for(shape, shape[2], dtype, masked=masked)

    cpu = on("cpu")
    assert (cpu(long), cpu(short)) == ("mapped", "plain")
    gpu = on("gpu", 9.0)
    assert [gpu(s) for s in (long, short, (4, 16, 1232, 88))] == ["cudnn"] * 3
    assert gpu(long, jnp.float32) == gpu(long, masked=True) == gpu((4, 3, 944, 20)) == "plain"
    assert on("gpu", 7.5)(long) == "plain"
    tpu = on("tpu", kind="TPU v5p")
    assert tpu(long) == tpu(short) == tpu(long, jnp.float32) == tpu(long, masked=True) == "splash"
    assert on("tpu", kind="TPU v3")(long) == "plain"


def test_a_form_that_there_is_not_is_reported():
    with pytest.raises(ValueError, match="unknown attention 'flash': there are auto, plain, mapped"):
        vit("micro", attention="flash")
