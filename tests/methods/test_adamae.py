"""AdaMAE: what its mask is drawn from, and what its losses reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.masking.core import plan
from vmae_jax.methods import adamae, masked
from vmae_jax.methods.adamae import PROBABILITIES, Adaptive, drawn
from vmae_jax.models.sampler import Sampler
from vmae_jax.models.variants import vit
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context, Grid

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
MODEL = vit("micro", frames=4, resolution=32, decoder_depth=1, dtype="float32")
OBJECTIVES = {"pixels": objective(pixels())}


def test_of_1568_tokens_78_are_drawn_each_once():
    """int(1568 · 0.05), which 1568 - int(1568 · 0.95) is not."""
    grid = Grid(8, 14, 14)
    mask = drawn(0.95)
    assert mask.keep(grid) == 78
    batch = {PROBABILITIES: jnp.full((3, grid.size), 1 / grid.size)}
    found = plan(jax.random.split(jax.random.key(0), 3), batch, grid, mask)
    assert all(len(set(row)) == 78 for row in np.asarray(found.visible).tolist())


def test_tokens_are_drawn_as_often_as_their_probabilities_are():
    """One of eight at a time, so that the frequency is the probability; an impossible token is never drawn."""
    probabilities = np.array([0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.0], np.float32)
    count = 20_000
    batch = {PROBABILITIES: jnp.broadcast_to(probabilities, (count, 8))}
    found = plan(jax.random.split(jax.random.key(1), count), batch, Grid(2, 2, 2), drawn(0.87))
    frequency = np.bincount(np.asarray(found.visible)[:, 0], minlength=8) / count
    np.testing.assert_allclose(frequency, probabilities, atol=0.015)
    assert frequency[-1] == 0


@pytest.mark.slow
def test_without_the_sampling_loss_it_is_a_masked_autoencoder_with_that_mask():
    batch = batch_of(size=32)
    one = Adaptive(MODEL, drawn(0.75), None, OBJECTIVES, sampler=Sampler(32), weight=0.0)
    params = meta.unbox(jax.jit(one.init)(jax.random.key(0), batch)[0])
    done = one.forward(params, batch, CONTEXT)
    assert float(jnp.abs(done.batch[PROBABILITIES].sum(-1) - 1).max()) < 1e-5

    def recorded(keys, batch, grid):
        return jnp.zeros((4, grid.size)).at[jnp.arange(4)[:, None], done.masks.visible].set(1.0)

    plain = masked.Masked(MODEL, drawn(0.75)._replace(score=recorded), None, OBJECTIVES)
    expected = plain.loss(params, batch, CONTEXT).terms["pixels"]
    found = one.loss(params, batch, CONTEXT)
    assert float(found.terms["pixels"].total) == pytest.approx(float(expected.total), rel=1e-6)
    assert float(found.terms["sampling"].weight) == 0.0
    entropy, p = found.metrics["sampler_entropy"], np.asarray(done.batch[PROBABILITIES], np.float64)
    assert float(entropy.total) == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    assert float(entropy.count) == 4


@pytest.mark.slow
def test_the_whole_method():
    method = adamae.build(MODEL, OBJECTIVES, ratio=0.75)
    batch = batch_of(size=32)
    params = meta.unbox(jax.jit(method.init)(jax.random.key(0), batch)[0])
    assert set(params) == {"encoder", "decoder", "sampler"}
    context = CONTEXT.replace(train=True)  # dropout is a function of each clip's seed
    loss = jax.jit(method.loss)
    losses = [loss(params, batch, context).terms["sampling"].total for _ in range(2)]
    assert float(losses[0]) == float(losses[1])
    assert float(losses[0]) != float(loss(params, batch, CONTEXT).terms["sampling"].total)
    assert list(method.reconstruct(params, batch, CONTEXT).rows)[:2] == ["original", "masked"]
    assert method.features(params, batch).shape == (4, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, r"ratio .* \[0, 1\)"),
        ({"objective": "motion"}, "objective='motion': there are pixels"),
        ({"weight": -1.0}, "weight=-1.0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"heads": 5}, "heads=5 do not divide the width of 32"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        adamae.build(MODEL, OBJECTIVES, **options)
