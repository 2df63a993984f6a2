"""Operations counted from dimensions, loops included."""

import jax
import jax.numpy as jnp
import pytest

from vmae_jax.plan import flops


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


def test_peak_is_known_for_known_devices_only():
    class Device:
        def __init__(self, kind):
            self.device_kind = kind

    assert flops.peak([Device("TPU v4")] * 4) == pytest.approx(4 * 275e12)
    assert flops.peak([Device("cpu")]) is None


@pytest.mark.parametrize(("decoder", "paper", "embedded"), [(True, 25.87, 1.66), (False, 35.48, 1.66)])
def test_videomae_v2_base_is_as_the_paper_counts_it(decoder, paper, embedded):
    """The paper's figures also embed the tokens that are hidden; ours does not."""
    from vmae_jax.masking.running_cell import running_cell
    from vmae_jax.masking.tube import tube
    from vmae_jax.methods import masked
    from vmae_jax.models.variants import vit
    from vmae_jax.targets.core import objective
    from vmae_jax.targets.pixels import pixels
    from vmae_jax.train.sharding import unbox
    from vmae_jax.types import Context

    method = masked.build(vit("B"), tube(0.9), {"pixels": objective(pixels())}, running_cell(0.5) if decoder else None)
    batch = {
        "video": jnp.zeros((1, 16, 224, 224, 3), jnp.uint8),
        "seed": jnp.zeros((1, 2), jnp.uint32),
        "index": jnp.zeros(1, jnp.int32),
        "valid": jnp.ones(1, bool),
    }
    params = unbox(jax.eval_shape(lambda: method.init(jax.random.key(0), batch)[0]))
    context = Context(key=jax.random.key(0), step=jnp.int32(0))
    counted = flops.count(lambda p: method.loss(p, batch, context), params) / 2e9
    assert counted + embedded == pytest.approx(paper, rel=0.005)
