"""Every form of attention is the plain one: values, gradients, padding, and on a mesh."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.models import attention, attention_tpu
from vmae_jax.models.attention import attend, form_for
from vmae_jax.models.variants import vit
from vmae_jax.train import sharding

HEADS = 2


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """The kernels for TPUs run as ordinary operations."""
    for module, name in ((attention, "splash"), (attention_tpu, "flat")):
        monkeypatch.setattr(module, name, functools.partial(getattr(module, name), interpret=True))


def formed(form, heads=HEADS):
    return functools.partial(attend, form=form, heads=heads)


def inputs(b, n, width, keys=None, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    sizes = ((b, n, width), (b, keys or n, width), (b, keys or n, width))
    return [jnp.asarray(rng.normal(size=size), dtype) for size in sizes]


def value_and_grads(function, arrays, **named):
    def loss(*arrays):
        out = function(*arrays, **named).astype(jnp.float32)
        return jnp.sin(out).sum(), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return [np.asarray(x, np.float32) for x in (out, *grads)]


def close(found, wanted, forward=1e-5, backward=1e-4):
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        np.testing.assert_allclose(a, b, rtol=0, atol=(backward if i else forward) * np.abs(b).max())


@pytest.mark.parametrize("form", ["mapped", "flat", "splash"])
@pytest.mark.parametrize("padded", [False, True])
def test_values_and_gradients_are_those_of_the_plain_form(form, padded):
    arrays = inputs(2, 72, 16)
    named = {}
    if padded:
        named["valid"] = jnp.asarray(np.random.default_rng(1).random((2, 72)) < 0.7).at[:, 0].set(True)
    close(value_and_grads(formed(form), arrays, **named), value_and_grads(formed("plain"), arrays, **named))


@pytest.mark.parametrize("form", ["mapped", "flat"])
def test_other_numbers_of_keys_than_of_queries(form):
    for keys in (36, 5):
        arrays = inputs(1, 20, 24, keys=keys)
        close(value_and_grads(formed(form, 3), arrays), value_and_grads(formed("plain", 3), arrays))


@pytest.mark.parametrize("form", ["mapped", "flat"])
def test_a_scale_of_its_own(form):
    arrays = inputs(1, 20, 16)
    close(value_and_grads(formed(form), arrays, scale=1.5), value_and_grads(formed("plain"), arrays, scale=1.5))


def test_the_plain_form_is_the_softmax_of_each_head():
    q, k, v = inputs(2, 5, 6, keys=7)
    out = attend(q, k, v, heads=2, form="plain")
    for head in (slice(0, 3), slice(3, 6)):
        weights = jax.nn.softmax(q[..., head] @ k[..., head].swapaxes(1, 2) / np.sqrt(3), axis=-1)
        np.testing.assert_allclose(out[..., head], weights @ v[..., head], atol=1e-5)


@pytest.mark.parametrize(("width", "heads", "unit"), [(256, 4, 2), (176, 2, 2)])
def test_the_kernel_in_several_blocks(width, heads, unit, monkeypatch):
    """Blocks of queries of which the last is not full, and several units of heads."""
    monkeypatch.setattr(attention_tpu, "SCORES", 4 * 24 * 128)
    blocks = attention_tpu._blocks(200, 24, width, heads, 4, 2**25)
    assert (blocks.rows, blocks.heads, blocks.unit) == (128, heads, unit)
    arrays = inputs(1, 200, width, keys=24)
    close(value_and_grads(formed("flat", heads), arrays), value_and_grads(formed("plain", heads), arrays))


def test_heads_are_computed_in_groups_where_all_of_them_need_too_much_memory(monkeypatch):
    arrays = inputs(1, 40, 512)
    exact = value_and_grads(formed("plain", 8), arrays)
    monkeypatch.setattr(attention, "_fast_memory", lambda: 10 * 40 * 256 * 4)
    assert attention_tpu._blocks(40, 40, 512, 8, 4, 10 * 40 * 256 * 4).heads == 2
    close(value_and_grads(formed("flat", 8), arrays), exact)


def test_bfloat16_is_as_near_to_float32_as_the_plain_form_is():
    arrays = inputs(1, 64, 32, dtype=jnp.bfloat16)
    exact = value_and_grads(formed("plain"), [x.astype(jnp.float32) for x in arrays])
    for form in ("mapped", "flat"):
        close(value_and_grads(formed(form), arrays), exact, forward=2e-2, backward=4e-2)


@pytest.mark.parametrize("form", ["mapped", "flat"])
def test_keys_that_are_padding_get_no_gradient_and_change_nothing(form):
    q, k, v = inputs(1, 40, 16)
    valid = jnp.arange(40)[None] < 25
    out, *grads = value_and_grads(formed(form), (q, k, v), valid=valid)
    np.testing.assert_array_equal(np.stack(grads[1:])[:, :, 25:], 0.0)
    junk = jnp.where(valid[:, :, None], 0.0, 1e3)
    np.testing.assert_array_equal(attend(q, k + junk, v + junk, heads=HEADS, valid=valid, form=form), out)


@pytest.mark.parametrize("form", ["mapped", "flat"])
@pytest.mark.parametrize("shape", [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 8}])
def test_each_device_works_on_its_own_rows_and_heads(shape, form):
    """On a mesh the result is the same, what divides is split, and no sum goes over devices."""
    mesh = sharding.make_mesh(shape)
    arrays = inputs(8, 16, 16)
    wanted = value_and_grads(formed("plain"), arrays)

    def split(*arrays):
        with attention.nn.logical_axis_rules(sharding.RULES):
            return attend(*arrays, heads=HEADS, form=form)

    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(sharding.BATCH))
    with jax.set_mesh(mesh):
        jitted = jax.jit(split, in_shardings=(place,) * 3)
        text = jitted.lower(*arrays).compile().as_text()
        close(value_and_grads(jitted, arrays), wanted)
    assert "all-reduce" not in text
    rows = 8 // (shape["data"] * shape.get("fsdp", 1))
    heads = 2 // shape.get("tensor", 1)
    assert (f"f32[{rows * heads},16,8]" if form == "mapped" else f"f32[{rows},16,{heads * 8}]") in text


def test_the_form_follows_platform_length_and_dtype(monkeypatch):
    long, short = ((4, 944, 192), 3), ((4, 160, 384), 6)

    def on(platform, capability=0.0, kind=""):
        device = SimpleNamespace(device_kind=kind, compute_capability=str(capability))
        monkeypatch.setattr(jax, "default_backend", lambda: platform)
        monkeypatch.setattr(jax, "local_devices", lambda: [device])

        def form(case, dtype=jnp.bfloat16, **options):
            shape, heads = case
            return form_for(shape, shape[1], heads, dtype, **{"masked": False, **options})

        return form

    cpu = on("cpu")
    assert (cpu(long), cpu(short), cpu(long, causal=True)) == ("mapped", "plain", "plain")
    gpu = on("gpu", 9.0)
    assert [gpu(s) for s in (long, short, ((4, 1232, 1408), 16))] == ["cudnn"] * 3
    assert gpu(long, causal=True) == "cudnn"
    assert gpu(long, jnp.float32) == gpu(long, masked=True) == gpu(((4, 944, 60), 3)) == "plain"
    assert on("gpu", 7.5)(long) == "plain"
    tpu = on("tpu", kind="TPU v5p")
    assert tpu(long) == tpu(short) == tpu(long, jnp.float32) == tpu(long, masked=True) == "flat"
    assert on("tpu", kind="TPU v4")(long) == "flat"
    assert tpu(short, causal=True) == "splash"
    assert tpu(((4, 20_000, 768), 12)) == on("tpu", kind="TPU v4")(((4, 3136, 768), 12)) == "splash"
    assert on("tpu", kind="TPU v3")(long) == "plain"


def test_causal_attention_sees_what_came_before():
    """The plain form by its definition, and the kernel as the plain form, which no other form could replace."""
    arrays = inputs(2, 40, 16)
    whole = attend(*arrays, heads=HEADS, form="plain", causal=True)
    for last in (0, 17, 39):
        query, key, value = (x[:, : last + 1] for x in arrays)
        np.testing.assert_allclose(
            whole[:, last], attend(query, key, value, heads=HEADS, form="plain")[:, -1], atol=1e-5
        )
    options = {"causal": True}
    close(value_and_grads(formed("splash"), arrays, **options), value_and_grads(formed("plain"), arrays, **options))
    with pytest.raises(ValueError, match="form='flat': causal attention has the forms plain, cudnn, splash"):
        attend(*arrays, heads=HEADS, form="flat", causal=True)


def test_a_form_that_there_is_not_is_reported():
    with pytest.raises(ValueError, match="unknown attention 'flash': there are auto, plain, mapped"):
        vit("micro", attention="flash")
