"""LeVJEPA: which tokens see which, the loss by hand, and what is regularized."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.augment.views import views
from vmae_jax.eval import geometry
from vmae_jax.masking.motion_guided import motion_guided
from vmae_jax.masking.random import random
from vmae_jax.methods import levjepa
from vmae_jax.methods.levjepa import Agreeing, disagreement
from vmae_jax.methods.sigreg import directions
from vmae_jax.models.rotary import rotary
from vmae_jax.models.variants import vit
from vmae_jax.types import Carried, Grid, MaskPlan, stream

OPTIONS = {"frames": 4, "resolution": 16, "patch": 4, "tubelet": 1, "prefix": 1, "dtype": "float32"}
MODEL = vit("micro", causal=True, positions=rotary("tiled"), initial="vjepa", **OPTIONS)
LOCAL = views(2, 8)
ONE = Agreeing(MODEL, random(0.75), LOCAL, (16, 8), 5.0, 32)
BATCH = batch_of(6, valid=np.array([True] * 5 + [False]))
CONTEXT = Carried().context(jax.random.key(3))


@functools.cache
def parameters():
    return meta.unbox(jax.jit(ONE.init)(jax.random.key(0), BATCH)[0])


@functools.cache
def compared():
    """The rows of the batch, and the loss of them."""

    @jax.jit
    def run(params, batch):
        rows = ONE.loss(params, batch, CONTEXT).rows
        return rows, ONE.compare(params, rows, CONTEXT)

    return run(parameters(), BATCH)


@pytest.mark.parametrize("kept", [64, 16])
def test_no_token_sees_later_frames_but_the_class_token(kept):
    """By changing one frame: tokens of earlier ones stay to the bit, with all tokens and with a few."""
    places = np.sort(np.random.default_rng(kept).permutation(64)[:kept])
    masks = MaskPlan(jnp.asarray(places)[None], jnp.zeros((1, 0), jnp.int32), jnp.zeros((1, 0)))
    cubes = np.random.default_rng(0).normal(size=(1, kept, MODEL.cube)).astype(np.float32)
    slots = places // 16
    weights = {"params": parameters()["encoder"]}
    run = jax.jit(lambda cubes: MODEL.encoder.apply(weights, cubes, masks))
    before = np.asarray(run(cubes))
    for slot in range(4):
        changed = np.where((slots == slot)[None, :, None], -cubes, cubes)
        apart = np.abs(np.asarray(run(changed)) - before).max(axis=-1)[0]
        assert apart[0] > 0
        np.testing.assert_array_equal(apart[1:] > 0, slots >= slot)


def test_the_class_token_reaches_no_token_of_the_clip():
    params = dict(parameters()["encoder"])
    params["prefix_token"] = params["prefix_token"] + 1.0
    found = [ONE.features({"encoder": one}, BATCH, pool=False) for one in (parameters()["encoder"], params)]
    np.testing.assert_array_equal(*found)


def test_tokens_of_the_published_size():
    """157 of 3,136 and 29 of 576 tokens of a view are kept; another view keeps others."""
    mask = random(0.95)
    assert (mask.keep(Grid(16, 14, 14)), mask.keep(Grid(16, 6, 6))) == (157, 29)
    scores = mask.score(jax.random.split(jax.random.key(0), 2), {}, Grid(16, 6, 6))
    assert (np.argsort(scores[0])[-29:] != np.argsort(scores[1])[-29:]).any()


def test_the_loss_by_hand():
    """From the embeddings of all views, without the row that pads the batch."""
    rows, loss = compared()
    assert rows["views"].shape == (6, 3, 32)
    found = np.asarray(ONE._embedded(parameters()["projector"], rows["views"], jnp.asarray(BATCH["valid"])))[:5]
    apart = np.square(found[:, :1] - found).mean()
    np.testing.assert_allclose(loss.terms["agreement"].total / loss.terms["agreement"].count, apart, rtol=1e-5)
    axes = np.asarray(directions(stream(CONTEXT.key, "directions"), 8, 32))
    by_view = []
    for view in range(3):
        shown = found[:, view] @ axes
        knots = np.linspace(0, 3, 17)
        real, imaginary = (part(knots[:, None, None] * shown).mean(axis=1) for part in (np.cos, np.sin))
        normal = np.exp(-(knots**2) / 2)
        weight = 2 * 3 / 16 * normal * np.where((knots == 0) | (knots == 3), 0.5, 1)
        by_view.append((weight[:, None] * ((real - normal[:, None]) ** 2 + imaginary**2)).sum(axis=0).mean())
    assert float(loss.terms["sigreg"].count) == 1
    assert float(loss.terms["sigreg"].weight) == 5
    np.testing.assert_allclose(loss.terms["sigreg"].total, np.mean(by_view), rtol=1e-4)
    np.testing.assert_allclose(loss.metrics["sigreg"].total, 5 * np.mean(by_view), rtol=1e-4)
    spread = found[:, 0].std(axis=0)
    np.testing.assert_allclose(loss.metrics["embedding_std"].total, spread.mean(), rtol=1e-4)


def test_gradients_reach_both_sides():
    found = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    apart = 2 * (found[:, :1] - found) / 12
    wanted = np.concatenate([apart.sum(axis=1, keepdims=True), -apart[:, 1:]], axis=1)
    np.testing.assert_allclose(jax.grad(lambda x: disagreement(x).sum())(found), wanted, atol=1e-6)


def test_the_features_are_the_class_token():
    tokens = ONE.features(parameters(), BATCH, pool=False)
    assert tokens.shape == (6, 64, 32)
    pooled = ONE.features(parameters(), BATCH)
    assert np.abs(np.asarray(pooled) - tokens.mean(axis=1)).max() > 0.01
    whole = jax.jit(lambda p: ONE.model.encoder.apply({"params": p["encoder"]}, *everything_of(BATCH)))(parameters())
    np.testing.assert_allclose(pooled, whole[:, 0], atol=1e-5)


def everything_of(batch):
    cubes = batch["video"].reshape(6, 4, 4, 4, 4, 4, 3).transpose(0, 1, 2, 4, 3, 5, 6).reshape(6, 64, 48)
    plan = MaskPlan(jnp.broadcast_to(jnp.arange(64), (6, 64)), jnp.zeros((6, 0), jnp.int32), jnp.zeros((6, 0)))
    return MODEL.normalize(cubes), plan


def test_the_regularizer_restores_spread_and_rank():
    """Embeddings as free parameters, almost all in one dimension: agreement alone lets them shrink, too."""
    start = np.random.default_rng(0).normal(size=(64, 3, 8)) * np.where(np.arange(8) == 0, 1.0, 0.05)
    valid = jnp.ones(64, bool)

    @jax.jit
    def descend(found, weight):
        def loss(found, key):
            apart = jnp.square(found[:, :1] - found).mean() + 0.03 * jnp.square(found).mean()  # as weight decay does
            return apart + weight * levjepa.divergence(found, valid, directions(key, 8, 32))

        def step(found, key):
            return found - 150 * jax.grad(loss)(found, key), None

        return jax.lax.scan(step, found, jax.random.split(jax.random.key(0), 400))[0]

    free, held = (np.asarray(descend(start.astype(np.float32), weight))[:, 0] for weight in (0.0, 3.0))
    ranks = [geometry.effective_rank(geometry.singular_values(geometry.centred(found))) for found in (free, held)]
    assert free.std(axis=0).max() < 0.1
    assert 0.8 < held.std(axis=0).min() < held.std(axis=0).max() < 1.2
    assert ranks[0] < 4 < 7.5 < ranks[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": vit("micro", **OPTIONS)}, "needs prefix=1"),
        ({"mask": motion_guided(0.75)}, "small views have no other streams"),
        ({"local": views(2, 6)}, "does not divide into cubes"),
        ({"regularization": -1.0}, "regularization=-1"),
        ({"widths": []}, "at least one width"),
    ],
)
def test_mistakes_in_a_joint_embedding(options, words):
    given = {"model": MODEL, "mask": random(0.75), "local": LOCAL} | options
    with pytest.raises(ValueError, match=words):
        levjepa.build(**given)
