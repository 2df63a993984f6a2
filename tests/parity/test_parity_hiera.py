"""Hiera and its masked autoencoder against the official code: encoded tokens, predictions, loss, gradients, logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from flax.traverse_util import flatten_dict
from recorded import FOLDER, rows

from vmae_jax.masking.core import Masker
from vmae_jax.masking.units import units
from vmae_jax.methods import classify
from vmae_jax.methods.masked import Masked
from vmae_jax.models.hiera import Size
from vmae_jax.models.hiera_sizes import hiera
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context, Grid
from vmae_jax.weights.layouts.hiera import read

STAGES = (1, 2, 3, 2)
CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
MEAN, DEVIATION = [0.45] * 3, [0.225] * 3


@pytest.fixture(scope="module")
def numbers():
    return dict(np.load(FOLDER / "hiera" / "plain.npz"))


def network(pools):
    """Our model of the golden's dims; its clips are not square."""
    about = {"mlp_ratio": 2.0, "decoder_width": 16, "decoder_depth": 2, "decoder_heads": 4, "dtype": "float32"}
    model = hiera(frames=4, resolution=64, pools=pools, mean=MEAN, std=DEVIATION, **about)
    cube = model.patch
    grid = Grid(2, 64 // cube.h, 96 // cube.w)
    encoder = model.encoder.clone(grid=grid, size=Size(4, 1, STAGES))
    return dataclasses.replace(model, grid=grid, encoder=encoder, decoder={**model.decoder, "grid": grid})


def autoencoder():
    given = Masker(keep=lambda grid: 3, score=lambda keys, batch, grid: jnp.asarray(batch["mask"], jnp.float32))
    target = pixels(mean=MEAN, deviation=DEVIATION, joint=True, first=True)
    return Masked(network(2), units(given), None, {"pixels": objective(target)})


def batch(numbers):
    return {"video": numbers["video"], "mask": numbers["mask"], **rows(2)}


def of(numbers, kind):
    return {name.removeprefix(kind): value for name, value in numbers.items() if name.startswith(kind)}


def ours(state, method, numbers):
    """Official weights, or gradients, as our parameters; none is missing or left over."""
    template = jax.eval_shape(lambda: meta.unbox(method.init(jax.random.key(0), batch(numbers))[0]))
    return read(state, template)


def close(found, wanted, share=None):
    limit = 1e-5 if share is None else share * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limit)


@pytest.mark.slow
def test_the_masked_autoencoder(numbers):
    method = autoencoder()
    params = ours(of(numbers, "weight/"), method, numbers)

    def total(params):
        done = method.forward(params, batch(numbers), CONTEXT)
        term = method.terms(done)["pixels"]
        targets = method.objectives["pixels"].target(done.batch, done.masks.decode, method.model.patch)
        return term.total / term.count, (done, targets)

    (loss, (done, targets)), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    hidden = np.zeros(numbers["hidden"].shape, bool)
    np.put_along_axis(hidden, np.asarray(done.masks.decode), True, axis=1)
    np.testing.assert_array_equal(hidden, numbers["hidden"])
    close(done.predictions["pixels"][:, ::6], numbers["prediction"])
    close(targets[:, ::6], numbers["target"])
    assert float(loss) == pytest.approx(float(numbers["loss"]), abs=1e-5)
    # Theirs are unit by unit, ours in the order of the grid.
    units_first = np.argsort(np.asarray(method.model.encoder._units(done.masks.visible)), axis=1, kind="stable")
    latent = np.take_along_axis(np.asarray(done.encoded), units_first[..., None], axis=1)
    close(latent.reshape(numbers["latent"].shape), numbers["latent"])
    wanted = ours(of(numbers, "grad/"), method, numbers)
    found, wanted = (flatten_dict(tree, sep="/") for tree in (gradients, wanted))
    for name in wanted:
        if name.endswith("k_bias"):  # the softmax cancels it: both are rounding
            assert max(np.abs(found[name]).max(), np.abs(wanted[name]).max()) < 1e-7, name
        else:
            close(found[name], wanted[name], 2e-5)


def test_the_classifier(numbers):
    """The same weights, with a third pooling."""
    method = classify.classifier(network(3), 5)
    shared = {
        name: value
        for name, value in of(numbers, "weight/").items()
        if not name.startswith(("decoder", "encoder_norm", "mask_token", "multi"))
    }
    params = ours(shared | of(numbers, "classifier/"), method, numbers)
    close(jax.jit(method.predict)(params, batch(numbers)), numbers["logits"])
