"""Terms that compare clips: the same loss, gradients and carried state on any mesh and with any micro-batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from toy_method import remember, spec_of, toy, toy_batch

from vmae_jax.models.parameters import Parameter
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding
from vmae_jax.train.gradients import check_groups, gradients
from vmae_jax.train.state import make_init
from vmae_jax.train.step import compile_step, make_step
from vmae_jax.types import Context, Loss, Mean, Method, Term

MESHES = {"one": {"data": 1}, "cube": {"data": 2, "fsdp": 2, "tensor": 2}, "eight": {"data": 8}}
WIDTH, QUEUE = 8, 32


def pairs(group=2, *, momentum=0.9):
    """A contrast of row 2i with row 2i + 1: batch norm in the head, a learned temperature, momentum keys, a queue."""

    def init(key, batch):
        a, b = jax.random.split(key)
        box = lambda value, *names: Parameter(value, names, decay=len(names) > 1)  # noqa: E731
        params = {
            "encoder": box(jax.random.normal(a, (batch["x"].shape[1], WIDTH)), None, "embed"),
            "head": box(jax.random.normal(b, (WIDTH, WIDTH)), "embed", None),
            "log_scale": box(jnp.float32(1.0)),
        }
        return params, {
            "encoder": nn.unbox(params)["encoder"],
            "queue": jnp.ones((QUEUE, WIDTH)),
            "mean": jnp.zeros(()),
        }

    def loss(params, batch, context):
        encoded = jnp.tanh(batch["x"] @ params["encoder"])
        keys = jnp.tanh(batch["x"] @ context.extra["encoder"])
        # A term that needs a group's rows side by side, and one weight that depends on the position in the run.
        twins = encoded.reshape(-1, 2, WIDTH)
        apart = jnp.square(twins[:, 0] - twins[:, 1]).sum(-1)
        valid = batch["valid"].reshape(-1, 2).all(-1)
        local = Term((apart * valid).sum(), valid.sum(), 0.1)
        rows = {"query": encoded, "key": jax.lax.stop_gradient(keys), "valid": batch["valid"], "id": batch["index"]}
        return Loss({"apart": local}, {"size": Mean(jnp.abs(encoded).sum(), jnp.float32(encoded.size))}, rows=rows)

    def compared(params, rows, context):
        z = rows["query"] @ params["head"]
        z = (z - z.mean(0)) / jnp.sqrt(z.var(0) + 1e-5)  # batch norm over the global batch
        z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
        count = z.shape[0]
        keys = jnp.concatenate([z, rows["key"], context.extra["queue"]])
        logits = jnp.exp(params["log_scale"]) * z @ keys.T
        own = jnp.arange(count)
        logits = jnp.where(own[:, None] == jnp.arange(logits.shape[1]), -1e9, logits)
        error = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, (own ^ 1)[:, None], 1)[:, 0]
        valid = rows["valid"].astype(jnp.float32)
        carry = {"key": rows["key"], "id": rows["id"], "mean": Mean(jnp.abs(z).sum(), jnp.float32(z.size))}
        return Loss(
            {"nce": Term((error * valid).sum(), valid.sum(), 1.0 + context.progress)},
            {"accuracy": Mean((logits.argmax(-1) == (own ^ 1)).sum(), jnp.float32(count))},
            carry,
        )

    def advance(extra, params, carry, context):
        keep = momentum + (1 - momentum) * context.progress
        encoder = keep * extra["encoder"] + (1 - keep) * params["encoder"]
        queue = jnp.roll(extra["queue"], carry["key"].shape[0], 0).at[: carry["key"].shape[0]].set(carry["key"])
        return {"encoder": encoder, "queue": queue, "mean": extra["mean"] + carry["mean"].total}

    features = lambda params, batch, **_: jnp.tanh(batch["x"] @ params["encoder"])  # noqa: E731
    return Method(init, loss, features, advance=advance, group=group, global_loss=compared)


PAIRS = pairs()


@functools.cache
def after_two_steps(mesh, accumulate):
    """Metrics of both steps, gradients of the second, and the carried state, on the host."""
    on = sharding.make_mesh(MESHES[mesh], devices=jax.devices()[:1] if mesh == "one" else None)
    batch, tx = toy_batch(), remember()
    state, placement = sharding.create(make_init(PAIRS, tx), jax.random.key(0), spec_of(batch), on)
    step = compile_step(make_step(PAIRS, tx, accumulate=accumulate, steps=4), placement, on, spec_of(batch))
    metrics = []
    for seed in range(2):
        state, result = step(state, toy_batch(seed=seed))
        metrics.append(jax.device_get(result))
    return metrics, jax.device_get(state.opt_state), jax.device_get(state.extra["method"])


@pytest.mark.parametrize(
    ("mesh", "accumulate"), [("one", 2), ("one", 4), ("eight", 1), ("eight", 2), ("cube", 1), ("cube", 2), ("cube", 4)]
)
def test_a_contrast_is_that_of_the_global_batch(mesh, accumulate):
    expected, found = after_two_steps("one", 1), after_two_steps(mesh, accumulate)
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * max(np.abs(one).max(), 1e-3))
    assert 0 < found[0][0]["loss/nce"] < 20
    assert abs(found[1]["log_scale"]) > 1e-3  # the temperature does have a gradient


@pytest.mark.slow
def test_the_loss_is_the_sum_of_local_and_compared_terms():
    batch = {name: jnp.asarray(leaf) for name, leaf in toy_batch().items()}
    params, extra = nn.unbox(PAIRS.init(jax.random.key(0), batch))
    context = Context(jax.random.key(0), jnp.int32(1), extra, progress=jnp.float32(0.25))
    whole = PAIRS.total_loss(params, batch, context)
    by_hand = sum(term.weight * term.total / term.count for term in whole.terms.values())
    for accumulate in (1, 4):
        found = gradients(PAIRS, params, batch, context, accumulate)
        np.testing.assert_allclose(found.loss, by_hand, rtol=1e-6)
        assert {*found.metrics} == {"loss/apart", "loss/nce", "size", "accuracy"}
        np.testing.assert_array_equal(found.carry["id"], batch["index"])  # rows in the order of the batch
    assert float(whole.terms["nce"].weight) == 1.25


def test_groups_stay_whole():
    batch = toy_batch()
    batch["y"] = np.repeat(np.arange(4), 4)[:, None].astype(np.float32)  # the group of each row

    def check(params, batch, context):
        same = (batch["y"].reshape(-1, 4) == batch["y"].reshape(-1, 4)[:, :1]).all()
        return Loss({"x": Term(params["x"] * 1.0, jnp.float32(1))}, {"same": Mean(same * 1.0, jnp.float32(1))})

    method = toy(group=4)._replace(loss=check)
    context = Context(jax.random.key(0), jnp.int32(0))
    for accumulate in (1, 2, 4):
        assert gradients(method, {"x": jnp.ones(())}, batch, context, accumulate).metrics["same"] == 1.0
    assert gradients(method._replace(group=1), {"x": jnp.ones(())}, batch, context, 4).metrics["same"] == 0.0


@pytest.mark.parametrize(
    ("group", "accumulate", "message"),
    [(4, 8, r"16 clips .* train\.accumulate=8 .* groups of 4"), (None, 2, r"all mixed.*group"), (1, 3, "16 clips")],
)
def test_micro_batches_that_would_divide_a_group_are_refused(group, accumulate, message):
    with pytest.raises(ConfigError, match=message):
        check_groups(toy(group=group), 16, accumulate)
    assert check_groups(toy(group=group), 16, 1) == (16 if group is None else group)


def test_a_method_that_returns_no_rows_or_the_same_name_twice_is_an_error():
    batch, params = toy_batch(), {"x": jnp.ones(())}
    context = Context(jax.random.key(0), jnp.int32(0))
    one = Loss({"x": Term(jnp.float32(1), jnp.float32(1))})
    nothing = toy()._replace(loss=lambda *a: one, global_loss=lambda *a: one)
    for accumulate in (1, 2):
        with pytest.raises(ValueError, match=r"Loss\.rows, but Method\.loss returned none"):
            gradients(nothing, params, batch, context, accumulate)
    twice = nothing._replace(loss=lambda p, b, c: Loss(one.terms, rows={"z": b["x"]}))
    for accumulate in (1, 2):
        with pytest.raises(ValueError, match=r"both return \['x'\]"):
            gradients(twice, params, batch, context, accumulate)
    short = toy()._replace(loss=lambda p, b, c: Loss(one.terms, rows={"z": b["x"][:3]}))
    with pytest.raises(ValueError, match=r"Loss\.rows 'z' has shape \(3,"):
        gradients(short, params, batch, context, 1)
