"""V-JEPA 2.1: which tokens are near, what images have apart, the weight of the context loss, what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.masking.multiblock import multiblock
from vmae_jax.methods import latent_dense
from vmae_jax.methods.latent_dense import LatentDense, distances
from vmae_jax.models.rotary import rotary
from vmae_jax.models.variants import vit
from vmae_jax.targets.core import l1
from vmae_jax.types import Context, Grid, MaskPlan

OPTIONS = {"frames": 4, "resolution": 32, "patch": 8, "dtype": "float32", "decoder_depth": 1, "project_bias": True}
MODEL = vit("micro", positions=rotary(), initial="vjepa", levels=[0, 1], modality=True, **OPTIONS)
MASKS = {"short": multiblock(2, 0.25, context=0.4, targets=0.4)}
IMAGES = np.random.default_rng(3).integers(0, 256, (3, 2, 32, 32, 3)).astype(np.uint8)
BATCH = batch_of(3, size=32, image=IMAGES, image_valid=np.array([[True, True], [True, False], [True, True]]))


def method(weight=1.0, **more):
    about = {"context_weight": lambda step: jnp.float32(weight), "images": MASKS, **more}
    return LatentDense(MODEL, MASKS, None, l1(), True, **about)


@functools.cache
def params():
    fresh = meta.unbox(jax.jit(method().init)(jax.random.key(0), BATCH)[0])
    keys = iter(jax.random.split(jax.random.key(1), 100))
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape), fresh)


def means(one, batch=BATCH, given=None):
    context = Context(key=jax.random.key(0), step=jnp.int32(0), train=False, average=params())
    terms = jax.jit(lambda p, b: one.loss(p, b, context).terms)(params() if given is None else given, batch)
    return {name: float(term.total / term.count) for name, term in terms.items()}, terms


def test_distances_by_hand():
    """Two slots of 3 x 3: the nearest of the targets, in tokens; padding of the targets is far, and none is below 1."""
    visible, decode = jnp.asarray([[0, 4, 17, 8]]), jnp.asarray([[8, 9, 5]])
    valid = jnp.asarray([[True, True, False]])
    plan = MaskPlan(visible, decode, jnp.ones((1, 3)), None, valid)
    np.testing.assert_allclose(distances(plan, Grid(2, 3, 3))[0], [1.0, np.sqrt(2), 1.0, 1.0])
    far = dataclasses.replace(plan, decode_valid=jnp.asarray([[False, True, False]]))
    np.testing.assert_allclose(distances(far, Grid(2, 3, 3))[0], [1.0, np.sqrt(3), np.sqrt(8), 3.0])


@pytest.mark.slow
def test_the_weight_of_visible_tokens():
    """It multiplies their terms, and half of everything is the images'."""
    _, terms = means(method(0.5))
    assert {name: float(term.weight) for name, term in terms.items()} == {
        "short": 0.5,
        "short_context": 0.25,
        "image_short": 0.5,
        "image_short_context": 0.25,
    }
    _, alone = means(method(0.5, images={}))
    assert {name: float(term.weight) for name, term in alone.items()} == {"short": 1.0, "short_context": 0.5}


@pytest.mark.slow
def test_images_that_only_pad_do_not_count():
    other = {**BATCH, "image": np.where(BATCH["image_valid"][..., None, None, None], IMAGES, 255 - IMAGES)}
    assert means(method(), other)[0] == means(method())[0]
    changed = {**BATCH, "image": 255 - IMAGES}
    before, after = means(method())[0], means(method(), changed)[0]
    assert before["short"] == after["short"]
    assert before["image_short"] != after["image_short"]


@pytest.mark.slow
def test_what_images_have_apart():
    """Their embedding and both modality vectors: others change the loss of images alone."""
    before = means(method())[0]
    for path, changes in (
        (("image", "embed", "bias"), {"image_short", "image_short_context"}),
        (("image", "predictor_modality"), {"image_short", "image_short_context"}),
        (("predictor", "modality"), {"short", "short_context"}),
        (("predictor", "head_context", "bias"), {"short_context", "image_short_context"}),
    ):
        given = jax.tree.map(lambda leaf: leaf, params())
        tree = given
        for name in path[:-1]:
            tree = tree[name]
        tree[path[-1]] = tree[path[-1]] + jnp.linspace(-1, 1, tree[path[-1]].size)  # norms would cancel a constant
        after = means(method(), given=given)[0]
        assert {name for name in before if not np.isclose(before[name], after[name], rtol=1e-6)} == changes, path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: latent_dense.build(MODEL, {}), "masks is empty"),
        (lambda: latent_dense.build(vit("micro", **OPTIONS), MASKS), "set modality=True"),
        (lambda: latent_dense.build(MODEL, MASKS, context_begin=5, context_end=4), "in this order"),
        (lambda: latent_dense.build(MODEL, MASKS, images={"a": multiblock(context=0.01)}), "context=0.01"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()
