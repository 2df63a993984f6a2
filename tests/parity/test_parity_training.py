"""The same six optimizer steps as the official implementation, through the step everything uses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.train.optim import adamw
from vmae_jax.train.schedule import Clock
from vmae_jax.train.sharding import unbox
from vmae_jax.train.state import make_init
from vmae_jax.train.step import make_step
from vmae_jax.weights.layouts import videomae


class Recorded:
    """The schedule that the golden was made with, step by step."""

    def __init__(self, rates: np.ndarray):
        self.rates = rates

    def at(self, clock):
        return self

    def value(self, step: int) -> float:
        return float(self.rates[step])

    def __call__(self, step):
        return jnp.asarray(self.rates, jnp.float32)[step]


def test_training(pretrain):
    numbers, method = pretrain.numbers, pretrain.method()
    rates = numbers["train_lrs"]
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), pretrain.batch())[0])
    optimizer = adamw(Recorded(rates), b2=0.95, weight_decay=float(numbers["wd"]), clip_norm=float(numbers["clip"]))
    tx, _ = optimizer.build(shapes, Clock(len(rates), 1.0, 1))
    params = jax.tree.map(jnp.asarray, pretrain.params(method))
    state = jax.eval_shape(lambda: unbox(make_init(method, tx)(jax.random.key(0), pretrain.batch())))
    state = state.replace(step=jnp.int32(0), params=params, opt_state=tx.init(params), first_bad_step=jnp.int32(-1))
    step = jax.jit(make_step(method, tx))
    for i in range(len(rates)):
        state, metrics = step(state, pretrain.batch(i))
        np.testing.assert_allclose(metrics["loss"], numbers["train_losses"][i], rtol=0, atol=1e-5)
        np.testing.assert_allclose(metrics["grad_norm"], numbers["train_grad_norms"][i], rtol=1e-5)
    final = videomae.to_official(jax.device_get(state.params), pretrain.facts)
    golden = {k.removeprefix("final_norm/"): v for k, v in numbers.items() if k.startswith("final_norm/")}
    assert set(final) == set(golden)
    for name, norm in golden.items():
        assert np.linalg.norm(final[name]) == pytest.approx(float(norm), rel=1e-5), name
