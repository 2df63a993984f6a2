"""The step: the same on any mesh and with any micro-batches, and harmless where something is not finite."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from toy_method import remember, spec_of, toy, toy_batch, toy_tx

from vmae_jax.models.parameters import Parameter
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding
from vmae_jax.train.state import eval_params, make_init
from vmae_jax.train.step import compile_step, make_step
from vmae_jax.types import Context, Loss, Mean, Method, Term

MESHES = {"one": {"data": 1}, "cube": {"data": 2, "fsdp": 2, "tensor": 2}, "eight": {"data": 8}}
TOY = toy()


def mesh_of(name):
    return sharding.make_mesh(MESHES[name], devices=jax.devices()[:1] if name == "one" else None)


@functools.cache
def fresh(method, ema, plain):
    """A state at step 0 on the host, its init, and the optimizer; made once for all tests."""
    tx = remember() if plain else toy_tx(method, toy_batch())
    init = make_init(method, tx, ema=ema)
    return host(sharding.create(init, jax.random.key(0), spec_of(toy_batch()), mesh_of("one"))[0]), init, tx


@functools.cache
def compiled(mesh, method, ema, plain, options):
    _, init, tx = fresh(method, ema, plain)
    batch = spec_of(toy_batch())
    placement = sharding.shardings(sharding.abstract(init, batch), mesh_of(mesh))
    step = make_step(method, tx, ema_decay=0.9 if ema else None, **dict(options))
    return compile_step(step, placement, mesh_of(mesh), batch), placement


def start(mesh, *, method=TOY, ema=False, plain=False, **options):
    """A fresh state and its compiled step; programs are shared between tests."""
    step, placement = compiled(mesh, method, ema, plain, tuple(options.items()))
    # Copied: host arrays must not be donated with the state.
    state = jax.tree.map(np.copy, fresh(method, ema, plain)[0])
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=placement.shardings)(state), step


def host(tree):
    return jax.tree.map(np.array, tree)


def close(one, other, rtol):
    """Equal to `rtol` of the largest entry of each leaf."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(np.abs(a).max(), 1e-3)), one, other
    )


def gradients(mesh, **options):
    state, step = start(mesh, plain=True, **options)
    state, metrics = step(state, toy_batch())
    return host(state.opt_state), host(metrics), host(state.extra)


def test_loss_is_the_weighted_sum_of_means_over_the_batch():
    method, batch = TOY, toy_batch()
    state, step = start("one")
    loss = jax.jit(method.loss)(state.params, batch, Context(jax.random.key(0), jnp.int32(0)))
    ratio = {name: float(term.total / term.count) for name, term in loss.terms.items()}
    _, metrics = step(state, batch)
    assert float(metrics["loss"]) == pytest.approx(ratio["error"] + 0.1 * ratio["size"], rel=1e-6)
    assert float(metrics["loss/size"]) == pytest.approx(ratio["size"], rel=1e-6)
    assert float(metrics["learning_rate"]) == pytest.approx(1e-2)
    assert float(metrics["finite"]) == 1.0
    assert set(metrics) == {
        *("loss", "loss/error", "loss/size", "power"),
        *("grad_norm", "param_norm", "learning_rate", "finite"),
    }
    assert all(value.dtype == jnp.float32 and value.shape == () for value in metrics.values())


@pytest.mark.parametrize("accumulate", [1, 4])
def test_any_mesh_and_any_micro_batches_give_the_same_gradients(accumulate):
    grads, metrics, extra = gradients("one")
    other = gradients("cube", accumulate=accumulate)
    close(grads, other[0], 1e-6)
    close(metrics, other[1], 1e-6)
    close(extra, other[2], 1e-6)


def test_accumulation_on_one_device_over_several_steps():
    batches = [toy_batch(seed=i) for i in range(4)]
    ends = []
    for accumulate in (1, 4):
        state, step = start("one", ema=True, accumulate=accumulate)
        losses = []
        for batch in batches:
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        ends.append((losses, host(state.params), host(state.extra)))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=1e-5)
    close(ends[0][1], ends[1][1], 1e-4)
    np.testing.assert_array_equal(ends[0][2]["method"]["last"], ends[1][2]["method"]["last"])  # rows in their order


def dots(step, state, batch, kind=r" dot\("):
    return len(re.findall(kind, step.lower(state, batch).compile().as_text()))


def test_counting_first_does_not_run_the_network_twice():
    """The whole program has the dots of one forward and backward pass, inside the loop over micro-batches."""
    batch = toy_batch()
    state, whole = start("one", ema=True, accumulate=1)
    _, micro = start("one", ema=True, accumulate=4)
    assert 0 < dots(micro, state, batch) <= dots(whole, state, batch)


def test_micro_batches_move_no_rows_between_devices():
    batch = toy_batch()
    state, step = start("eight", accumulate=2)
    text = step.lower(state, batch).compile().as_text()
    assert "all-reduce" in text
    assert not re.findall(r"all-to-all|collective-permute", text)
    # Rows of the batch are gathered once at most: what `advance` was handed to keep, replicated.
    assert len(re.findall(r" all-gather\(", text)) <= 1


def test_sharding_constraints_survive_lowering_inside_the_mesh_alone():
    batch = toy_batch()
    state, step = start("cube")
    method = TOY
    inside = step.lower(state, batch).as_text()
    outside = jax.jit(make_step(method, toy_tx(method, batch))).lower(state, batch).as_text()
    assert len(re.findall("sharding_constraint", inside)) >= 1
    assert len(re.findall("sharding_constraint", outside)) == 0


def test_state_is_donated_and_stays_where_it_was():
    state, step = start("cube", ema=True)
    new, _ = step(state, toy_batch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    kernel = new.params["encoder"]["blocks"]["fc1"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 4, 6)
    step(new, toy_batch())


def test_the_second_step_compiles_nothing():
    state, step = start("cube", ema=True)
    for i in range(3):
        state, _ = step(state, toy_batch(seed=i))
    assert len(step.programs) == 1
    twice = {name: np.concatenate([leaf, leaf]) for name, leaf in toy_batch().items()}
    with pytest.raises((TypeError, ValueError), match=r"shape|compiled"):
        step(state, twice)


def test_average_follows_the_update():
    state, step = start("one", ema=True)
    first = host(state.params)
    close(first, host(state.extra["ema"]), 0.0)
    state, _ = step(state, toy_batch())
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * np.array(new), first, state.params)
    close(expected, host(state.extra["ema"]), 1e-6)
    close(host(eval_params(state, ema=True)), host(state.extra["ema"]), 0.0)
    assert eval_params(state) is state.params


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_step_that_is_not_finite_changes_nothing_but_the_position(accumulate, bad):
    batch = toy_batch()
    state, step = start("cube", ema=True, accumulate=accumulate)
    state, _ = step(state, batch)
    before = host(state)
    broken = {**batch, "x": batch["x"].copy()}
    broken["x"][5, 0] = bad
    state, metrics = step(state, broken)
    after = host(state)
    for name in ("params", "opt_state", "extra"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(after, name))
    assert (int(state.step), int(state.first_bad_step), float(metrics["finite"])) == (2, 1, 0.0)
    state, metrics = step(state, broken)
    assert (int(state.step), int(state.first_bad_step)) == (3, 1)
    state, metrics = step(state, batch)
    assert (int(state.step), int(state.first_bad_step), float(metrics["finite"])) == (4, 1, 1.0)


def test_the_first_bad_step_may_be_the_first_of_all():
    batch = toy_batch()
    broken = {**batch, "x": np.full_like(batch["x"], np.nan)}
    state, step = start("one")
    assert int(state.first_bad_step) < 0
    for _ in range(2):
        state, _ = step(state, broken)
    assert (int(state.step), int(state.first_bad_step)) == (2, 0)


def test_a_refused_step_equals_a_run_without_it():
    """The optimizer counts its own updates, so learning rate and bias correction do not skip."""
    batch = {**toy_batch(), "valid": np.ones(16, bool)}
    broken = {**batch, "x": np.full_like(batch["x"], np.nan)}
    method = toy()._replace(loss=lambda p, b, c: toy().loss(p, b, Context(c.key, jnp.int32(0))))
    ends = []
    for sequence in ([batch, broken, batch], [batch, batch]):
        state, step = start("one", method=method)
        for each in sequence:
            state, _ = step(state, each)
        ends.append(host((state.params, state.opt_state, state.extra)))
    jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_nothing_counted_is_zero_not_nan(accumulate):
    batch = {**toy_batch(), "valid": np.zeros(16, bool)}  # no row counts for "error"
    state, step = start("one", ema=True, accumulate=accumulate)
    state, metrics = step(state, batch)
    assert float(metrics["loss/error"]) == 0.0
    assert float(metrics["finite"]) == 1.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(host(state.params)))


def test_key_of_the_step_changes_with_step_and_seed():
    seen = []

    def loss(params, batch, context):
        draw = jax.random.uniform(context.key)
        return Loss({"x": Term(params["kernel"].sum(), jnp.float32(1))}, {"draw": Mean(draw, jnp.float32(1))})

    kernel = Parameter(jnp.ones(3), (None,), decay=True)
    method = Method(lambda key, batch: ({"kernel": kernel}, None), loss, lambda *a, **k: None)
    for seed in (0, 1):
        state, step = start("one", method=method, plain=True, seed=seed)
        for _ in range(2):
            state, metrics = step(state, toy_batch())
            seen.append(float(metrics["draw"]))
    assert len(set(seen)) == 4


def test_what_cannot_be_put_back_together_is_an_error():
    def loss(params, batch, context):
        return Loss({"x": Term(params["kernel"].sum(), jnp.float32(1))}, carry={"sum": batch["x"].sum()})

    kernel = Parameter(jnp.ones(3), (None,), decay=True)
    method = Method(lambda key, batch: ({"kernel": kernel}, None), loss, lambda *a, **k: None)
    state, step = start("one", method=method, plain=True)
    with pytest.raises(ValueError, match=r"Loss.carry 'sum' has shape \(\).*16 clips.*Mean"):
        step(state, toy_batch())


def test_advance_may_not_change_the_form_of_extra():
    method = toy()._replace(advance=lambda extra, params, carry, context: {**extra, "seen": jnp.int32(0)})
    state, step = start("one", method=method)
    with pytest.raises(ValueError, match=r"Method\.advance changed.*method/seen from float32\[\] to int32\[\]"):
        step(state, toy_batch())


def test_bad_arguments():
    with pytest.raises(ConfigError, match="accumulate"):
        make_step(toy(), remember(), accumulate=0)
    with pytest.raises(ConfigError, match="ema_decay"):
        make_step(toy(), remember(), ema_decay=1.5)
    with pytest.raises(ConfigError, match=r"16 clips does not divide into 24.*24 would"):
        start("eight", accumulate=3)
    state, step = start("one")
    with pytest.raises(ConfigError, match="keeps no average"):
        eval_params(state, ema=True)
    wrong = make_step(toy(), toy_tx(toy(), toy_batch()), ema_decay=0.9)
    with pytest.raises(ValueError, match="go together"):
        jax.eval_shape(wrong, state, toy_batch())
    with pytest.raises(ValueError, match="same number of rows"):
        jax.eval_shape(wrong, state, {**toy_batch(), "x": np.zeros((3, 6), np.float32)})
    del step


def test_flax_boxes_stay_out_of_the_step():
    state, step = start("one")
    state, _ = step(state, toy_batch())
    boxes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata))
    assert not any(isinstance(leaf, nn.meta.AxisMetadata) for leaf in boxes)
