"""Copies that have gone apart are found and named; what is split is not compared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vmae_jax.io.replicas import ReplicaError, compare, differing

MESH = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def placed(array, *spec):
    return jax.device_put(jnp.asarray(array), NamedSharding(MESH, PartitionSpec(*spec)))


def flipped(array, place):
    """The array with one bit of the copy on one device changed."""
    parts = []
    for shard in array.addressable_shards:
        data = np.array(shard.data)
        if shard.device.id == place:
            data.view(np.uint32).reshape(-1)[3] ^= 1
        parts.append(jax.device_put(data, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)


def state():
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    return {
        "whole": placed(x),
        "half": placed(x.astype(jnp.bfloat16), None, "tensor"),
        "split": placed(x, ("data", "fsdp"), "tensor"),
        "key": jax.device_put(jax.random.key(1), NamedSharding(MESH, PartitionSpec())),
        "host": np.arange(3),
        "empty": placed(np.zeros((0, 4), np.float32)),
    }


def test_equal_copies_are_equal():
    assert differing(state()) == []
    compare(state(), 1)


@pytest.mark.parametrize(("name", "device"), [("whole", 5), ("half", 2)])
def test_one_bit_on_one_device_is_found(name, device):
    bad = state()
    bad[name] = flipped(bad[name], device)
    [found] = differing(bad)
    assert (found.name, [one.id for one in found.devices]) == (name, [device])
    with pytest.raises(ReplicaError, match=rf"step 7: .*1 leaves, {name} first: device {device} of host 0"):
        compare(bad, 7)


def test_what_has_no_copies_cannot_differ():
    bad = state()
    bad["split"] = flipped(bad["split"], 3)
    assert differing(bad) == []


def test_two_devices_are_enough_to_differ():
    pair = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(AxisType.Auto,))
    same = jax.device_put(jnp.arange(8.0), NamedSharding(pair, PartitionSpec()))
    assert differing({"x": same}) == []
    [found] = differing({"x": flipped(same, 1)})
    assert found.name == "x"
