"""Spikes: found at once by comparison with earlier steps, and refused like a step that is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_method import spec_of, toy, toy_batch, toy_tx

from vmae_jax.spec import ConfigError
from vmae_jax.train import spikes
from vmae_jax.train.sharding import unbox
from vmae_jax.train.spikes import Spikes, judge
from vmae_jax.train.state import make_init
from vmae_jax.train.step import make_step


def judged(losses, norms=None, *, window=8, limit=6.0):
    settings = Spikes(window=window, limit=limit)
    history, found = spikes.empty(settings), []
    step = jax.jit(lambda history, loss, norm: judge(history, {"loss": loss, "grad_norm": norm}, settings))
    for i, loss in enumerate(losses):
        spike, history = step(history, jnp.float32(loss), jnp.float32(1.0 if norms is None else norms[i]))
        found.append(bool(spike))
    return found, history


def test_a_jump_is_a_spike_once_the_window_is_full():
    rng = np.random.default_rng(0)
    calm = 1 + 0.02 * rng.standard_normal(30)
    assert not any(judged(calm)[0])
    jump = calm.copy()
    jump[3], jump[20] = 9.0, 2.0
    assert [i for i, spike in enumerate(judged(jump)[0]) if spike] == [20]
    norms = np.ones(30)
    norms[25] = 40.0
    assert [i for i, spike in enumerate(judged(calm, norms)[0]) if spike] == [25]


def test_a_fall_is_none_and_rounding_is_none():
    assert not any(judged(np.linspace(5, 1, 40))[0])
    flat = np.full(20, 0.7)
    flat[15] *= 1.0001
    flat[17] = 0.1
    assert not any(judged(flat)[0])


def test_a_new_level_is_accepted_after_half_a_window():
    found, _ = judged([1.0] * 10 + [5.0] * 10)
    assert found[10]
    assert not any(found[16:])


def test_what_is_not_finite_is_no_spike_and_leaves_no_trace():
    before = judged([1.0] * 9)[1]
    found, after = judged([1.0] * 9 + [float("nan")])
    assert not any(found)
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("bad", [{"window": 1}, {"limit": 0.0}])
def test_bad_settings(bad):
    with pytest.raises(ConfigError, match=r"train\.spikes"):
        Spikes(**bad)


def test_the_step_refuses_a_spike_and_remembers_it():
    method, batch, settings = toy(), toy_batch(), Spikes(window=4, limit=20.0)
    tx = toy_tx(method, spec_of(batch))
    state = unbox(make_init(method, tx, spikes=settings)(jax.random.key(0), batch))
    step = jax.jit(make_step(method, tx, spikes=settings))
    for _ in range(5):
        state, metrics = step(state, batch)
        assert (metrics["spike"], metrics["finite"]) == (0, 1)
    after, metrics = step(state, batch | {"y": batch["y"] + 1e4})
    assert (metrics["spike"], metrics["finite"]) == (1, 1)
    assert int(after.step) == int(state.step) + 1
    assert int(after.first_bad_step) == int(state.step)
    for name in ("params", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(state, name))
    jax.tree.map(np.testing.assert_array_equal, after.extra["method"], state.extra["method"])
    assert int(after.extra["spikes"]["seen"]) == int(state.extra["spikes"]["seen"]) + 1
    with pytest.raises(ValueError, match="spikes"):
        make_step(method, tx)(state, batch)
