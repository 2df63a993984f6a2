"""Lengths in any unit, and learning rates that describe their origin."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax import spec
from vmae_jax.spec import ConfigError
from vmae_jax.train.schedule import Clock, arctangent, constant, length_in_steps, warmup_cosine

CLOCK = Clock(steps=100, steps_per_epoch=12.5, global_batch=1024)


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        ({"steps": 7}, 7),
        ({"epochs": 2}, 25),
        ({"epochs": 0.2}, 3),
        ({"epochs": 0}, 0),
        ({"epochs": 1e-6}, 1),
        ({"examples": 4096}, 4),
        ({"examples": 1}, 1),
        ({"examples": 1024, "steps": None}, 1),
    ],
)
def test_lengths(length, steps):
    assert length_in_steps(length, steps_per_epoch=12.5, global_batch=1024) == steps
    assert CLOCK.length(length) == steps


@pytest.mark.parametrize(
    "length", [{}, {"steps": 1, "epochs": 1}, {"hours": 3}, {"steps": -1}, {"steps": "10"}, {"steps": True}]
)
def test_lengths_that_are_none(length):
    with pytest.raises(ConfigError, match="length"):
        CLOCK.length(length)


@pytest.mark.parametrize("warmup", [0, 1, 2, 10, 99, 100])
def test_compiled_rate_equals_the_exact_one(warmup):
    schedule = warmup_cosine(1.5e-4, final=2.5e-7, start=2.5e-9, warmup={"steps": warmup}, batch_unit=None)
    rate = schedule.at(CLOCK)
    steps = range(CLOCK.steps + 5)
    compiled = jax.jit(jax.vmap(rate))(jnp.arange(len(steps)))
    assert compiled.dtype == jnp.float32
    np.testing.assert_allclose(compiled, [rate.value(step) for step in steps], rtol=2e-6)


def test_a_training_of_no_steps_has_no_warm_up():
    rate = warmup_cosine(1.0, warmup={"epochs": 5}).at(CLOCK._replace(steps=0))
    assert (rate.warmup, rate.steps) == (0, 0)
    with pytest.raises(ConfigError, match=r"63 steps does not .* of 1 steps.*schedule\.warmup\.epochs=0"):
        warmup_cosine(1.0, warmup={"epochs": 5}).at(CLOCK._replace(steps=1))


def test_an_absolute_last_rate_is_not_scaled_by_the_batch():
    for batch in (64, 1024):
        rate = warmup_cosine(1.2e-3, min_rate=1e-5).at(CLOCK._replace(global_batch=batch))
        assert rate.value(10**6) == 1e-5
        assert rate.value(0) == pytest.approx(1.2e-3 * batch / 256)
    with pytest.raises(ValueError, match="min_rate: a learning rate"):
        warmup_cosine(1.0, min_rate=-1.0)


def test_rates_at_the_borders():
    rate = warmup_cosine(1.0, final=0.1, start=0.2, warmup={"steps": 5}, batch_unit=None).at(CLOCK)
    assert [rate.value(step) for step in (0, 4, 5)] == [
        0.2,
        1.0,
        1.0,
    ]  # the peak is there twice, as in the official code
    assert rate.value(99) > 0.1
    assert rate.value(100) == rate.value(10**6) == 0.1
    assert constant(0.3).at(CLOCK).value(57) == 0.3
    assert float(constant(0.3).at(CLOCK)(57)) == np.float32(0.3)
    assert constant(0.3).at(CLOCK).describe() == "learning rate 0.3, constant"


def test_all_three_rates_follow_the_batch_and_it_is_reported():
    rate = warmup_cosine(1e-3, final=1e-5, start=1e-6, warmup={"epochs": 2}).at(CLOCK)
    assert (rate.peak, rate.final, rate.start, rate.warmup) == (4e-3, 4e-5, 4e-6, 25)
    assert rate.describe().startswith("learning rate 0.001 × 1024/256 = 0.004, warm-up of 25 steps from 4e-06")


def test_a_changed_batch_warns_unless_it_is_scaled():
    with pytest.warns(UserWarning, match="batch of 512 was changed to 1024.*0.001 was not scaled"):
        warmup_cosine(1e-3, batch_unit=None, recipe_batch=512).at(CLOCK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warmup_cosine(1e-3, batch_unit=None, recipe_batch=1024).at(CLOCK)
        warmup_cosine(1e-3, batch_unit=256, recipe_batch=512).at(CLOCK)
        warmup_cosine(1e-3, batch_unit=None).at(CLOCK)


def test_a_config_makes_the_same_schedule():
    config = spec.call("train.schedule.warmup_cosine", peak=1e-3, warmup={"epochs": 20})
    config = spec.from_json(spec.to_json(config))
    assert spec.build(config) == warmup_cosine(1e-3, warmup={"epochs": 20})
    assert {spec.build(config): "found"}[warmup_cosine(1e-3, warmup={"epochs": 20})] == "found"  # equal hashes too
    assert spec.build(spec.call("train.schedule.warmup_cosine", peak=1.0)).at(CLOCK).warmup == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"peak": -1.0}, "peak"),
        ({"peak": float("nan")}, "peak"),
        ({"peak": 1.0, "batch_unit": 0}, "batch_unit"),
        ({"peak": 1.0, "warmup": {"weeks": 1}}, "weeks"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        warmup_cosine(**arguments)


def test_a_warmup_longer_than_the_run():
    with pytest.raises(ConfigError, match="warm-up of 250 steps does not fit into a training of 100 steps"):
        warmup_cosine(1.0, warmup={"epochs": 20}).at(CLOCK)


def test_an_arctangent_falls_around_its_turn():
    rate = arctangent(0.005, -100.0, 0.05).at(CLOCK)
    assert [rate.value(step) for step in (0, 5, 100)] == pytest.approx([9.37e-3, 5e-3, 3.35e-5], rel=5e-3)
    assert (rate.start, rate.peak, rate.final) == (rate.value(0), 0.005, rate.value(100))
    assert rate.value(200) == rate.value(100)
    compiled = jax.jit(jax.vmap(rate))(jnp.arange(105))
    assert compiled.dtype == jnp.float32
    np.testing.assert_allclose(compiled, [rate.value(step) for step in range(105)], rtol=1e-4)
    assert rate.describe() == "learning rate 0.005 in the middle, arctangent of slope -100, turning at 0.05 of the run"
    for wrong in ((-1.0, 1.0, 0.5), (1.0, 1.0, 2.0), (1.0, float("nan"), 0.5)):
        with pytest.raises(ValueError, match="at least 0, a number, and in"):
            arctangent(*wrong)
