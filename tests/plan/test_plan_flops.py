"""Operations counted from dimensions, loops included."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.masking.running_cell import running_cell
from vmae_jax.masking.tube import tube
from vmae_jax.methods.masked import Masked
from vmae_jax.models.variants import vit
from vmae_jax.plan import flops
from vmae_jax.plan.reference import reference
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.train.sharding import unbox
from vmae_jax.types import Context


def test_a_product():
    assert flops.count(jnp.dot, jnp.ones((3, 5)), jnp.ones((5, 7))) == 2 * 3 * 5 * 7


def test_loops_count_every_turn():
    w = jnp.ones((6, 4, 4))

    def deep(x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    assert flops.count(jax.jit(deep), jnp.ones((2, 4))) == 6 * 2 * 2 * 4 * 4
    assert flops.count(jax.checkpoint(deep), jnp.ones((2, 4))) == 6 * 2 * 2 * 4 * 4


def test_a_convolution():
    x, kernel = jnp.ones((1, 3, 8, 8)), jnp.ones((16, 3, 2, 2))
    counted = flops.count(lambda x: jax.lax.conv(x, kernel, (2, 2), "VALID"), x)
    assert counted == 2 * 16 * 4 * 4 * 3 * 2 * 2


def test_training_is_three_forward_passes():
    assert flops.of_training(jnp.dot, jnp.ones((3, 5)), jnp.ones((5, 7))) == 3 * 2 * 3 * 5 * 7
    # What does not depend on the parameters, such as a teacher, has no backward pass.
    both = lambda p, x, teacher: jnp.tanh(x @ p["w"]).sum() + jnp.tanh(x @ teacher).sum()  # noqa: E731
    work = flops.of_training(both, {"w": jnp.ones((5, 7))}, jnp.ones((3, 5)), jnp.ones((5, 2)))
    assert work == 3 * 2 * 3 * 5 * 7 + 2 * 3 * 5 * 2


def test_peak_is_known_for_known_devices_only():
    class Device:
        def __init__(self, kind):
            self.device_kind = kind

    assert flops.peak([Device("TPU v4")] * 4) == pytest.approx(4 * 275e12)
    assert flops.peak([Device("cpu")]) is None


@pytest.mark.parametrize(("size", "dual", "paper"), [
    ("B", True, 25.87), ("B", False, 35.48), ("g", True, 241.61), ("g", False, 263.93),
])  # fmt: skip
def test_the_reference_form_costs_what_the_paper_states(size, dual, paper):
    """The paper's multiply-adds a clip, of embedding all tokens; ours does the same without what is dropped."""
    ours, theirs = (total(masked_autoencoder(size, dual), published) / 2e9 for published in (False, True))
    assert theirs == pytest.approx(paper, rel=0.0015)
    embedded_in_vain = {"B": (1568 - 160) * 768 * 1536, "g": (2048 - 208) * 1408 * 1176}[size] / 1e9
    assert theirs - ours == pytest.approx(embedded_in_vain, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dual", [True, False])
def test_the_reference_form_has_the_same_loss_and_gradients(dual):
    masked = masked_autoencoder("micro", dual, frames=8, resolution=32, dtype="float32")
    batch = batch_of(masked.model, 2, jnp.zeros)
    batch["video"] = jax.random.randint(jax.random.key(1), batch["video"].shape, 0, 256, jnp.int32).astype(jnp.uint8)
    batch["seed"] = jnp.arange(4, dtype=jnp.uint32).reshape(2, 2)
    params = unbox(jax.jit(masked.init)(jax.random.key(0), batch)[0])

    def loss(params, of):
        term = of.method.loss(params, batch, CONTEXT).terms["pixels"]
        return term.total / term.count

    gradients = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    (ours, grads), (theirs, others) = gradients(params, Of(masked)), gradients(params, Of(reference(masked)))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)

    def equal(a, b):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()) + 1e-9)

    jax.tree.map(equal, grads, others)


def test_parts_sum_up_to_the_whole():
    masked = masked_autoencoder("B", dual=True)
    batch = batch_of(masked.model)
    params = unbox(jax.eval_shape(lambda b: masked.init(jax.random.key(0), b)[0], batch))
    parts = flops.by_part(lambda p, b: masked.loss(p, b, CONTEXT), params, batch)
    assert sum(cost.flops for cost in parts.values()) == total(masked, published=False)
    tokens, width, heads = 160, 768, 12
    assert parts["encoder mlp"].flops == 12 * tokens * 2 * 2 * width * 4 * width
    assert parts["encoder scores"].flops == 12 * 2 * 2 * tokens**2 * width
    written_and_read = 2 * 2 * heads * tokens * width // heads + 4 * heads * tokens**2
    assert parts["encoder scores"].bytes > 12 * written_and_read
    assert set(parts) == {
        *(f"encoder {part}" for part in ("embed", "qkv", "scores", "proj", "mlp")),
        *(f"decoder {part}" for part in ("project", "qkv", "scores", "proj", "mlp", "head")),
    }


CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0))


@dataclasses.dataclass(frozen=True, eq=False)
class Of:
    """A static argument."""

    method: Any


def masked_autoencoder(size, dual, **model):
    decoder = running_cell(0.5) if dual else None
    return Masked(vit(size, attention="plain", **model), tube(0.9), decoder, {"pixels": objective(pixels())})


def batch_of(model, clips=1, make=jax.ShapeDtypeStruct):
    shapes = {
        "video": ((clips, *model.video_shape), jnp.uint8),
        "seed": ((clips, 2), jnp.uint32),
        "index": ((clips,), jnp.int32),
        "valid": ((clips,), bool),
    }
    made = {name: make(shape, dtype) for name, (shape, dtype) in shapes.items()}
    return made if make is jax.ShapeDtypeStruct else made | {"valid": jnp.ones(clips, bool)}


def total(masked, published):
    method, batch = (reference(masked) if published else masked), batch_of(masked.model)
    params = unbox(jax.eval_shape(lambda b: masked.init(jax.random.key(0), b)[0], batch))
    return flops.count(lambda p, b: method.loss(p, b, CONTEXT), params, batch)
