"""MARLIN: its two players, what each of them learns from, and that the critic can win and be fooled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.masking.random import random
from vmae_jax.methods import marlin
from vmae_jax.methods.marlin import Adversarial
from vmae_jax.methods.masked import Masked
from vmae_jax.models.variants import vit
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context

MODEL = vit("micro", frames=4, resolution=16, patch=8, decoder_depth=1, dtype="float32", unroll=0)
RAW = {"pixels": objective(pixels(normalize=False))}
MASK = random(0.75)
ONE = Adversarial(MODEL, MASK, None, RAW, hidden=8, weight=0.01)
CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
SHAPES = jax.eval_shape(lambda: meta.unbox(ONE.init(jax.random.key(0), batch_of())[0]))
DRAW = np.random.default_rng(3)
PARAMS = jax.tree.map(lambda leaf: jnp.asarray(DRAW.normal(0, 0.2, leaf.shape), jnp.float32), SHAPES)


@jax.jit
def found(params, batch):
    """The loss, the gradients of each term and of plain masked autoencoding, and the pass."""

    def term(name, params):
        one = ONE.loss(params, batch, CONTEXT).terms[name]
        return one.weight * one.total / one.count

    def plain(params):
        one = Masked(MODEL, MASK, None, RAW).loss(params, batch, CONTEXT).terms["pixels"]
        return one.total / one.count

    grads = {name: jax.grad(term, argnums=1)(name, params) for name in ("pixels", "adversary", "critic")}
    return ONE.loss(params, batch, CONTEXT), grads, jax.grad(plain)(params), ONE.forward(params, batch, CONTEXT)


def size(tree):
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def judged(params, cubes):
    critic = jax.tree.map(np.asarray, params["critic"])
    x = np.asarray(cubes) @ critic["fc1"]["kernel"] + critic["fc1"]["bias"]
    return (np.where(x > 0, x, 0.01 * x) @ critic["fc2"]["kernel"] + critic["fc2"]["bias"])[..., 0]


def test_both_players_by_hand():
    batch = batch_of(valid=np.arange(4) != 2)
    loss, _, _, done = found(PARAMS, batch)
    counted = np.array([0, 1, 3])
    predicted = judged(PARAMS, done.predictions["pixels"])[counted]
    real = judged(PARAMS, RAW["pixels"].target(batch, done.masks.decode, MODEL.patch))[counted]
    means = {name: float(term.total / term.count) for name, term in loss.terms.items()}
    assert means["adversary"] == pytest.approx(-predicted.mean(), rel=1e-4)
    assert means["critic"] == pytest.approx(predicted.mean() - real.mean(), rel=1e-4)
    assert {name: float(term.weight) for name, term in loss.terms.items()} == pytest.approx(
        {"pixels": 1.0, "adversary": 0.01, "critic": 1.0}
    )
    right = loss.metrics["critic_right"]
    assert float(right.total / right.count) == pytest.approx((real > predicted).mean())


def test_what_one_player_learns_from_has_no_gradient_for_the_other():
    """So the sum of the losses has the gradients that two optimizers would have."""
    _, grads, plain, _ = found(PARAMS, batch_of())
    for name, tree in grads.items():
        mine, other = tree["critic"], {"encoder": tree["encoder"], "decoder": tree["decoder"]}
        mine, other = (other, mine) if name != "critic" else (mine, other)
        assert size(mine) > 0, name
        assert size(other) == 0, name
    for tower in ("encoder", "decoder"):  # without the adversary it is masked autoencoding
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads["pixels"][tower], plain[tower])


def test_a_step_of_the_critic_separates_real_from_predicted_and_one_of_the_decoder_fools_it():
    _, grads, _, done = found(PARAMS, batch_of())
    real = RAW["pixels"].target(batch_of(), done.masks.decode, MODEL.patch)
    gap = lambda params: judged(params, real).mean() - judged(params, done.predictions["pixels"]).mean()  # noqa: E731
    better = jax.tree.map(lambda p, g: p - 0.01 * g, PARAMS, grads["critic"])
    assert gap(better) > gap(PARAMS)
    fooling = jax.tree.map(lambda p, g: p - g, PARAMS, grads["adversary"])
    _, _, _, after = found(fooling, batch_of())
    assert judged(PARAMS, after.predictions["pixels"]).mean() > judged(PARAMS, done.predictions["pixels"]).mean()


def test_the_method_and_its_sizes():
    method = marlin.build(MODEL, MASK, RAW)
    params = meta.unbox(jax.eval_shape(method.init, jax.random.key(0), batch_of())[0])
    assert params["critic"]["fc1"]["kernel"].shape == (2 * 8 * 8 * 3, 4 * MODEL.decoder["width"])
    assert method.reconstruct is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "depth"}, "must be the name of an objective of pixels"),
        ({"objectives": {"pixels": objective(pixels(frames=2))}}, "of all frames"),
        ({"weight": -1.0}, "weight must be at least 0"),
        ({"hidden": 0}, "hidden at least 1"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(ValueError, match=words):
        marlin.build(**{"model": MODEL, "encoder_mask": MASK, "objectives": RAW, **options})
