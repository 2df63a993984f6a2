"""A module of a plugin is trained with decay, layer decay and sharding, without an entry in any table of ours."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from vmae_jax.bench.step import random_batch
from vmae_jax.commands.experiment import experiment
from vmae_jax.configs import quickstart
from vmae_jax.configs.common import smoke
from vmae_jax.plan import flops
from vmae_jax.spec import ConfigError, build, call
from vmae_jax.train import sharding
from vmae_jax.train.step import compile_step
from vmae_jax.types import Context


@pytest.fixture
def config(users_model) -> Any:
    """The quick start at `smoke` size, with the plugin's method and layer decay on a mesh of three axes."""
    made: Any = quickstart.get_config("smoke")
    made.method = call("brightness.build")
    made.optimizer.layer_decay = 0.5
    made.mesh.ici.update({"data": 2, "fsdp": 2, "tensor": 2})
    return smoke(made)


def test_it_gives_its_own_size_at_smoke(config):
    assert (config.method.width, config.method.depth) == (8, 3)


def test_it_declares_decay_layers_and_axes(config):
    made = experiment(config, trains=True)
    params = made.abstract_params()
    result = dict(line.split("  ", 1) for line in made.optimizer.describe(params).splitlines())
    decay = made.config.optimizer.weight_decay
    assert result == {
        "eye/lens": f"decay {decay:g}  rate × 0.0625",
        "eye/out": f"decay {decay:g}  rate × 1",
        "eye/stack/filters": f"decay {decay:g}  rate × 0.125, 0.25, 0.5",
        "eye/stack/gate": "decay 0  rate × 0.125, 0.25, 0.5",
    }
    places = sharding.shardings(params, made.mesh).shardings["eye"]
    assert places["stack"]["filters"].spec == PartitionSpec(None, "tensor", "fsdp", None)
    assert places["stack"]["gate"].spec == PartitionSpec(None, "fsdp")
    assert places["lens"].spec == PartitionSpec(None, "fsdp")


def test_its_parts_are_counted_by_the_names_that_it_declares(config):
    made = experiment(config)
    params, context = sharding.unbox(made.abstract_params()), Context(key=jax.random.key(0), step=jnp.int32(0))
    parts = flops.by_part(lambda p, b: made.method.loss(p, b, context), params, made.batch_spec)
    clips, (width, depth, experts) = made.loader.clips_per_step, (8, 3, 4)
    assert parts["eye experts"].flops == 2 * clips * depth * experts * width**2
    assert set(parts) == {"eye experts", "rest"}


def test_it_trains_on_the_mesh(config):
    made = experiment(config, trains=True)
    tx = made.optimizer_without_data()
    state, placement = sharding.create(made.make_init(tx), jax.random.key(0), made.batch_spec, made.mesh)
    assert state.params["eye"]["stack"]["filters"].sharding.spec == PartitionSpec(None, "tensor", "fsdp", None)
    step = compile_step(made.make_step(tx), placement, made.mesh, made.batch_spec)
    before = jax.device_get(state.params)
    batch, losses = random_batch(made.batch_spec), []
    for _ in range(3):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[2] < losses[0]
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, jax.device_get(state.params))
    assert all(jax.tree.leaves(changed))


def test_a_stream_that_the_loader_does_not_give_is_named(config):
    config.method = call("brightness.listener")
    with pytest.raises(
        ConfigError, match=r"config.method reads 'audio', which config.data does not provide: .* video$"
    ):
        experiment(config)


def test_labels_are_needed_only_by_training(config):
    config.method = call("methods.classify.build", model=call("models.variants.vit"), classes=10)
    config = smoke(config)
    config.data.labels = False
    assert build(config.method).supervision == ("label",)
    experiment(config)
    with pytest.raises(
        ConfigError, match=r"reads 'label', which config.data does not provide.*set config.data.labels=True"
    ):
        experiment(config, trains=True)
