"""The linear probe: batch norm of the global batch, LARS, and an encoder that is not differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.methods import linear
from vmae_jax.models.variants import vit
from vmae_jax.train import schedule
from vmae_jax.train.schedule import Clock
from vmae_jax.train.sgd import sgd
from vmae_jax.train.state import make_init
from vmae_jax.train.step import make_step
from vmae_jax.types import Context

MODEL = vit("micro", frames=4, resolution=16, depth=1, prefix=1, drop_path=0.5, dtype="float32")
PROBE = linear.build(MODEL, 5, init_scale=50.0)
RATE, MOMENTUM, TRUST = 2.0, 0.9, 0.05
ROWS = 6


@pytest.fixture(scope="module")
def begun():
    """The first state with its step in two micro-batches; a row of the batch is padding."""
    batch = batch_of(ROWS, valid=np.arange(ROWS) != 2)
    optimizer = sgd(schedule.constant(RATE), momentum=MOMENTUM, trust=TRUST, freeze=["encoder", "norm"])
    boxed = jax.eval_shape(PROBE.init, jax.random.key(0), batch)[0]
    tx, _ = optimizer.build(boxed, Clock(10, 1.0, ROWS))
    state = meta.unbox(jax.jit(make_init(PROBE, tx))(jax.random.key(3), batch))
    return jax.device_get(state), jax.jit(make_step(PROBE, tx, accumulate=2)), batch


def test_three_steps_are_those_of_the_equations(begun):
    """In float64 by hand: batch norm of all rows but padding, cross-entropy, LARS, running statistics of PyTorch."""
    state, step, batch = begun
    tokens = np.asarray(jax.jit(PROBE.features)(state.params, batch), np.float64) * np.sqrt(1 + 1e-6)  # mean 0, var 1
    there, labels = batch["valid"], batch["label"]
    x, target = tokens[there], np.eye(5)[labels[there]]
    mean, variance = x.mean(0), x.var(0)
    normed = (x - mean) / np.sqrt(variance + 1e-6)
    head = {name: np.float64(array) for name, array in state.params["head"].items()}
    velocity = {name: np.zeros_like(array) for name, array in head.items()}
    running = {"mean": np.zeros_like(mean), "variance": np.ones_like(mean)}
    now = state
    for _ in range(3):
        logits = normed @ head["kernel"] + head["bias"]
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        loss = -np.log((share * target).sum(1)).mean()
        wrong = (share - target) / len(x)
        moved = {"kernel": normed.T @ wrong, "bias": wrong.sum(0)}
        moved["kernel"] *= TRUST * np.linalg.norm(head["kernel"]) / np.linalg.norm(moved["kernel"])
        velocity = {name: MOMENTUM * velocity[name] + moved[name] for name in head}
        head = {name: head[name] - RATE * velocity[name] for name in head}
        running["mean"] = 0.9 * running["mean"] + 0.1 * mean
        running["variance"] = 0.9 * running["variance"] + 0.1 * x.var(0, ddof=1)
        now, metrics = step(now, batch)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=2e-5)
    for name in head:
        np.testing.assert_allclose(now.params["head"][name], head[name], rtol=0, atol=2e-4)
        assert np.abs(now.params["head"][name] - state.params["head"][name]).max() > 0.05
    for name in running:
        np.testing.assert_allclose(now.params["norm"][name], running[name], rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, now.params["encoder"], state.params["encoder"])
    assert set(now.opt_state.velocity) == {"head"}


def test_a_refused_step_keeps_the_running_statistics(begun):
    state, step, batch = begun
    after, metrics = step(state, {**batch, "label": np.full(ROWS, 99, np.int32)})
    assert not metrics["finite"]
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_outputs_are_by_running_statistics_each_clip_by_itself(begun):
    state, _, batch = begun
    predict = jax.jit(PROBE.predict)
    norm = {"mean": np.full(MODEL.encoder.width, 0.3), "variance": np.full(MODEL.encoder.width, 4.0)}
    params = {**state.params, "norm": jax.tree.map(np.float32, norm)}
    token = np.asarray(jax.jit(PROBE.features)(state.params, batch)) * np.sqrt(1 + 1e-6)
    expected = (token - 0.3) / np.sqrt(4.0 + 1e-6) @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(predict(params, batch), expected, rtol=0, atol=2e-4)
    other = {**batch, "video": np.where(np.arange(ROWS)[:, None, None, None, None] == 1, batch["video"], 0)}
    np.testing.assert_allclose(predict(params, other)[1], expected[1], rtol=0, atol=2e-4)
    quiet = Context(jax.random.key(0), jnp.int32(0), train=False)
    loss = PROBE.total_loss(params, batch, quiet)
    assert loss.carry is None
    found = -(jax.nn.log_softmax(expected)[np.arange(ROWS), batch["label"]] * batch["valid"]).sum()
    np.testing.assert_allclose(loss.terms["cross_entropy"].total, found, rtol=1e-4)


def test_the_encoder_is_not_differentiated(begun):
    """The program of a gradient has the encoder's products once, without those of a backward pass."""
    state, _, batch = begun
    context = Context(jax.random.key(0), jnp.int32(0))

    def error(params):
        return PROBE.total_loss(params, batch, context).terms["cross_entropy"].total

    products = [
        str(jax.make_jaxpr(function)(state.params)).count("dot_general") for function in (error, jax.grad(error))
    ]
    assert products[1] == products[0] + 1  # of the head's kernel alone
    jax.tree.map(lambda one: np.testing.assert_array_equal(one, 0), jax.grad(error)(state.params)["encoder"])


def test_mistakes_of_a_linear_probe():
    with pytest.raises(ValueError, match="reads the class token"):
        linear.build(vit("micro", frames=4, resolution=16), 5)
    with pytest.raises(ValueError, match="momentum must be in"):
        linear.build(MODEL, 5, momentum=0.0)
    with pytest.raises(ValueError, match="at least 2 classes"):
        linear.build(MODEL, 1)
