"""Meshes of every shape, names without a rule, dimensions that do not divide, equal values everywhere."""

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax.core import meta
from jax.sharding import AxisType, PartitionSpec
from toy_method import spec_of, toy, toy_batch, toy_tx

from vmae_jax.models.parameters import Parameter
from vmae_jax.spec import ConfigError
from vmae_jax.train.sharding import (
    RULES,
    abstract,
    batch_sharding,
    check_batch,
    create,
    describe,
    make_mesh,
    shardings,
)
from vmae_jax.train.state import make_init

CUBE = {"data": 2, "fsdp": 2, "tensor": 2}


def state_of(hidden=12):
    method, batch = toy(hidden), toy_batch()
    return make_init(method, toy_tx(method, batch), ema=True), spec_of(batch)


def test_mesh_fills_in_what_is_left():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    mesh = make_mesh({"data": 2, "fsdp": -1, "tensor": 2})
    assert dict(mesh.shape) == CUBE
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert dict(make_mesh({"data": 1}, devices=jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1, "tensor": 1}


def test_hybrid_mesh_keeps_a_slice_together():
    mesh = make_mesh({"data": 1, "fsdp": 2, "tensor": 2}, dcn={"data": 2})
    assert dict(mesh.shape) == CUBE
    ids = np.vectorize(lambda device: device.id)(mesh.devices)
    assert {frozenset(half.ravel().tolist()) for half in ids} == {frozenset(range(4)), frozenset(range(4, 8))}


def test_hybrid_mesh_follows_the_slices_of_the_devices():
    class Chip:
        platform, device_kind, process_index = "cpu", "cpu", 0

        def __init__(self, number):
            self.id, self.slice_index = number, number % 2

    mesh = make_mesh({"data": -1, "fsdp": 2}, dcn={"data": -1}, devices=[Chip(i) for i in range(8)])
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert slices.shape == (4, 2, 1)
    assert (slices[:2] == 0).all()
    assert (slices[2:] == 1).all()
    with pytest.raises(ConfigError, match=r"dcn.* 2 slices"):
        make_mesh(devices=[Chip(i) for i in range(8)])


@pytest.mark.parametrize(
    ("ici", "dcn", "message"),
    [
        ({"data": 3}, {"data": 1}, "makes 3, but there are 8 devices"),
        ({"data": -1, "fsdp": 3}, {"data": 1}, "makes 3, but there are 8 devices"),
        ({"data": -1, "fsdp": -1}, {"data": 1}, "one may be -1"),
        ({"data": 0}, {"data": 1}, "at least 1"),
        ({"model": 2}, {"data": 1}, "no axis model; there are data, fsdp, tensor"),
        ({"data": -1}, {"data": 3}, "8 devices do not divide into 3 equal shares"),
        ({"data": 8}, {"data": 2}, "makes 8, but there are 4 devices a slice"),
    ],
)
def test_mesh_errors_state_what_would_be_right(ici, dcn, message):
    with pytest.raises(ConfigError, match=message):
        make_mesh(ici, dcn)


def test_rules_are_few_and_cover_the_mesh():
    assert len(RULES) <= 10
    assert len({name for name, _ in RULES}) == len(RULES)


def test_every_parameter_and_its_moments_follow_the_names():
    init, batch = state_of()
    placement = shardings(abstract(init, batch), make_mesh(CUBE))
    kernel = PartitionSpec(None, "fsdp", "tensor")
    for params in (
        placement.shardings.params,
        placement.shardings.opt_state.mu,
        placement.shardings.opt_state.nu,
        placement.shardings.extra["ema"],
    ):
        assert params["encoder"]["blocks"]["fc1"]["kernel"].spec == kernel
        assert params["encoder"]["blocks"]["fc1"]["bias"].spec == PartitionSpec(None, "tensor")
        assert params["head"]["kernel"].spec == PartitionSpec("fsdp", None)
    assert placement.shardings.step.spec == PartitionSpec()
    assert placement.replicated == ()


def test_a_name_without_a_rule_names_the_parameter():
    init, batch = state_of()
    with pytest.raises(ConfigError, match=r"params/encoder/blocks/fc1/bias.*no sharding rule for 'layers'"):
        shardings(abstract(init, batch), make_mesh(CUBE), [rule for rule in RULES if rule[0] != "layers"])


def test_a_parameter_may_bring_a_rule_for_a_name_of_its_own():
    shape = jax.ShapeDtypeStruct((4, 4), np.float32)
    make = lambda names, axes: {"w": Parameter(shape, names, decay=True, axes=axes)}  # noqa: E731
    placement = shardings(make(("experts", "embed"), (("experts", "tensor"),)), make_mesh(CUBE))
    assert placement.shardings["w"].spec == PartitionSpec("tensor", "fsdp")
    with pytest.raises(ConfigError, match=r"no sharding rule for 'experts'.*axes=\{'experts': MESH_AXIS\}"):
        shardings(make(("experts", "embed"), ()), make_mesh(CUBE))
    with pytest.raises(ConfigError, match=r"'w' brings a sharding rule for 'embed', which has one already"):
        shardings(make(("embed", None), (("embed", "tensor"),)), make_mesh(CUBE))
    with pytest.raises(ConfigError, match=r"'experts': no mesh axis 'model': data"):
        shardings(make(("experts", None), (("experts", "model"),)), make_mesh(CUBE))


def test_a_head_is_never_split_over_devices():
    """Of 3 heads side by side in 24 columns, two devices could hold 12 columns each, but not whole heads."""
    shape = jax.ShapeDtypeStruct((8, 24), np.float32)
    make = lambda heads: {"w": Parameter(shape, ("embed", "heads"), decay=True, units=(("heads", heads),))}  # noqa: E731
    placement = shardings(make(4), make_mesh(CUBE))
    assert (placement.shardings["w"].spec, placement.replicated) == (PartitionSpec("fsdp", "tensor"), ())
    placement = shardings(make(3), make_mesh(CUBE))
    assert placement.shardings["w"].spec == PartitionSpec("fsdp", None)
    assert placement.replicated == ("w: heads of 3 does not divide by tensor of 2",)


def test_a_parameter_that_names_no_axes_is_reported():
    kernel = jax.ShapeDtypeStruct((4, 4), np.float32)
    with pytest.raises(ConfigError, match=r"'params/head/kernel' of shape \[4, 4\] names no axes"):
        shardings({"params": {"head": {"kernel": kernel}}}, make_mesh(CUBE))
    # What a method carries besides, and numbers, need none.
    placed = shardings({"params": {"scale": jax.ShapeDtypeStruct((), np.float32)}, "queue": kernel}, make_mesh(CUBE))
    assert placed.shardings["queue"].spec == PartitionSpec()


@pytest.mark.parametrize(("ici", "dcn", "same"), [
    ({"data": 4}, {"tensor": 2}, True),
    ({"data": 2, "fsdp": 2}, {"tensor": 2}, True),
    ({"data": 2, "tensor": 2}, {"data": 2}, False),
    ({"data": 2, "fsdp": 2}, {"fsdp": 2}, False),
])  # fmt: skip
def test_hosts_that_share_examples_by_a_tensor_axis_read_the_same_rows(ici, dcn, same):
    """Devices 0..3 are one host, 4..7 another; each reads the rows that its devices hold."""
    mesh = make_mesh(ici, dcn)
    held = batch_sharding(mesh).devices_indices_map((16, 3))
    first, second = (
        {row for device, index in held.items() if device.id // 4 == host for row in range(16)[index[0]]}
        for host in range(2)
    )
    assert first | second == set(range(16))
    assert (first == second) == same
    assert same or not first & second


def test_names_that_are_not_one_a_dimension_name_the_parameter():
    box = nn.LogicallyPartitioned(jax.ShapeDtypeStruct((4, 4), np.float32), names=("embed",))
    with pytest.raises(ConfigError, match="'w' has 2 dimensions and 1 logical names"):
        shardings({"w": box}, make_mesh(CUBE))


def test_one_mesh_axis_is_used_once_and_the_first_rule_wins():
    box = nn.LogicallyPartitioned(jax.ShapeDtypeStruct((4, 4, 4), np.float32), names=("embed", "heads", "mlp"))
    placement = shardings({"w": box}, make_mesh(CUBE))
    assert placement.shardings["w"].spec == PartitionSpec("fsdp", "tensor", None)


def test_a_dimension_that_does_not_divide_is_replicated_and_listed():
    init, batch = state_of(hidden=7)
    boxed = abstract(init, batch)
    placement = shardings(boxed, make_mesh(CUBE))
    assert placement.shardings.params["encoder"]["blocks"]["fc1"]["kernel"].spec == PartitionSpec(None, "fsdp", None)
    listed = [note for note in placement.replicated if note.startswith("params/")]
    assert [note.split(":")[0] for note in listed] == [
        f"params/encoder/blocks/{leaf}" for leaf in ("fc1/bias", "fc1/kernel", "fc2/kernel")
    ]
    assert listed[0].endswith("mlp of 7 does not divide by tensor of 2")
    assert "replicated: params/encoder/blocks/fc1/kernel: mlp of 7" in describe(boxed, placement)


def test_description_shows_path_shape_and_axes():
    init, batch = state_of()
    boxed = abstract(init, batch)
    lines = describe(boxed, shardings(boxed, make_mesh(CUBE))).splitlines()
    assert "params/encoder/blocks/fc1/kernel  float32[3, 8, 12]  (-, fsdp, tensor)" in lines
    assert "step  int32[]  ()" in lines
    assert len(lines) == len(jax.tree.leaves(boxed))


def test_created_values_are_those_of_the_plain_init_on_any_mesh():
    init, batch = state_of()
    plain = meta.unbox(jax.jit(init)(jax.random.key(3), toy_batch()))
    for ici in (CUBE, {"data": 1, "fsdp": 8, "tensor": 1}):
        state, placement = create(init, jax.random.key(3), batch, make_mesh(ici))
        assert not any(map(meta.is_axis_metadata, jax.tree.leaves(state, is_leaf=meta.is_axis_metadata)))
        jax.tree.map(np.testing.assert_array_equal, state, plain)
        there = jax.tree.map(lambda x, place: x.sharding.is_equivalent_to(place, x.ndim), state, placement.shardings)
        assert all(jax.tree.leaves(there))


def test_batch_check_gives_the_nearest_sizes():
    mesh = make_mesh(CUBE)
    check_batch(16, mesh)
    check_batch(16, mesh, accumulate=4)
    with pytest.raises(ConfigError, match=r"10 clips does not divide into 4 \(data 2 × fsdp 2\); 8 or 12 would"):
        check_batch(10, mesh)
    with pytest.raises(ConfigError, match=r"4 micro-batches\); 16 would"):
        check_batch(8, mesh, accumulate=4)
    assert batch_sharding(mesh).shard_shape((16, 3)) == (4, 3)
