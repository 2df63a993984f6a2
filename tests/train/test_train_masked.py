"""VideoMAE V2 itself, tiny: the same gradients on one device and on a mesh, whole and in micro-batches."""

import functools

import jax
import numpy as np
import pytest
from toy_method import remember

from vmae_jax.masking.running_cell import running_cell
from vmae_jax.masking.tube import tube
from vmae_jax.methods import masked
from vmae_jax.models.variants import vit
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.train import sharding
from vmae_jax.train.state import make_init
from vmae_jax.train.step import compile_step, make_step

ROWS = 16
MESHES = {"one": {"data": 1}, "cube": {"data": 2, "fsdp": 2, "tensor": 2}}


@functools.cache
def method():
    model = vit("micro", frames=4, resolution=32, patch=8, decoder_depth=1, drop_path=0.5, dtype="float32")
    return masked.build(model, tube(0.75), {"pixels": objective(pixels())}, running_cell(0.5))


def batch():
    rng = np.random.default_rng(0)
    return {
        "video": rng.integers(0, 256, (ROWS, 4, 32, 32, 3), dtype=np.uint8),
        "seed": rng.integers(0, 2**32, (ROWS, 2), dtype=np.uint32),
        "index": np.arange(ROWS, dtype=np.int32),
        "valid": np.arange(ROWS) != 5,
    }


@functools.cache
def gradients(mesh, accumulate):
    """Loss and gradients."""
    mesh = sharding.make_mesh(MESHES[mesh], devices=jax.devices()[:1] if mesh == "one" else None)
    tx = remember()
    spec = jax.eval_shape(batch)
    state, placement = sharding.create(make_init(method(), tx), jax.random.key(0), spec, mesh)
    state, metrics = compile_step(make_step(method(), tx, accumulate=accumulate), placement, mesh, spec)(state, batch())
    return float(metrics["loss"]), jax.tree.map(np.array, state.opt_state)


@pytest.mark.parametrize(
    ("mesh", "accumulate"),
    [("cube", 4), pytest.param("cube", 1, marks=pytest.mark.slow), pytest.param("one", 4, marks=pytest.mark.slow)],
)
def test_the_same_gradients(mesh, accumulate):
    loss, grads = gradients("one", 1)
    other, others = gradients(mesh, accumulate)
    assert other == pytest.approx(loss, rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(a).max()), grads, others)


def test_full_size_models_fit_the_rules():
    """Every published size, abstractly: each parameter has its names, and what does not divide is listed."""
    mesh = sharding.make_mesh({"data": 1, "fsdp": 2, "tensor": 4})
    spec = {name: jax.ShapeDtypeStruct((8, *leaf.shape[1:]), leaf.dtype) for name, leaf in batch().items()}
    for size, listed in (("B", 4), ("g", 3)):
        model = vit(size, dtype="float32")
        spec["video"] = jax.ShapeDtypeStruct((8, *model.video_shape), np.uint8)
        big = masked.build(model, tube(0.9), {"pixels": objective(pixels())}, running_cell(0.5))
        abstract = sharding.abstract(big.init, spec)[0]
        placement = sharding.shardings(abstract, mesh)
        kernel = placement.shardings["encoder"]["blocks"]["mlp"]["fc1"]["kernel"]
        assert tuple(kernel.spec) == (None, "fsdp", "tensor")
        assert len(placement.replicated) == listed, placement.replicated
        if size == "g":  # its decoder's MLP is 2234 wide
            assert all("decoder/blocks/mlp" in note and "mlp of 2234" in note for note in placement.replicated)
        boxes = jax.tree.leaves(abstract, is_leaf=sharding.meta.is_axis_metadata)
        assert all(sharding.meta.is_axis_metadata(leaf) for leaf in boxes)
