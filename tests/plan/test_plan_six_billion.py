"""The six-billion variant: its size is that of the published encoder, and its state splits over a pod."""

import math

import jax
import pytest

from vmae_jax.commands.config import load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.train import sharding


@pytest.fixture(scope="module")
def six_billion():
    overrides = [("method.model.size", "6B"), ("data.source.path", "unread")]
    return experiment(load_config("configs/videomae_v2.py:g", overrides))


def test_six_billion_parameters(six_billion):
    params = sharding.unbox(six_billion.abstract_params())
    encoder = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params["encoder"]))
    width, cube = 3200, 2 * 14 * 14 * 3
    # A block: qkv with biases of q and v, output, MLP of 4, two norms; then the cubes' embedding and the last norm.
    block = 3 * width**2 + 2 * width + width**2 + width + 8 * width**2 + 5 * width + 4 * width
    assert encoder == 48 * block + cube * width + width + 2 * width
    assert encoder == pytest.approx(5.9e9, rel=0.01)


@pytest.mark.parametrize(("fsdp", "tensor"), [(8, 1), (4, 2)])
def test_it_splits(six_billion, fsdp, tensor):
    params = six_billion.abstract_params()
    mesh = sharding.make_mesh({"data": 1, "fsdp": fsdp, "tensor": tensor})
    placement = sharding.shardings(params, mesh)
    leaves = list(zip(jax.tree.leaves(sharding.unbox(params)), jax.tree.leaves(placement.shardings), strict=True))
    whole = sum(math.prod(leaf.shape) for leaf, _ in leaves)
    share = sum(math.prod(place.shard_shape(leaf.shape)) for leaf, place in leaves)
    assert share < whole / fsdp * 1.01
    # 25 heads are an odd number: they stay together, and this is reported.
    assert any("heads of 25 does not divide by tensor of 2" in note for note in placement.replicated) == (tensor == 2)
