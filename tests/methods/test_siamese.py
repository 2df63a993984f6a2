"""SiamMAE and CropMAE: what is seen of two views, what the networks share, and whether the first view is used."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.masking.random import random
from vmae_jax.methods import siamese
from vmae_jax.methods.siamese import Siamese, views, without_reference
from vmae_jax.models import positions
from vmae_jax.models.variants import vit
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context, Grid

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
IMAGES = {"frames": 1, "tubelet": 1, "resolution": 32, "decoder_depth": 2, "dtype": "float32"}
TOKEN = {"prefix": 1, "decoder_prefix": "kept", "project_bias": True, "positions": positions.sincos_2d()}
MODEL = vit("micro", initial="mae", **IMAGES, **TOKEN)
OBJECTIVES = {"pixels": objective(pixels(joint=True))}
MASK = random(0.75, "visible")


def pairs(count=3, **more):
    """Random pairs of pictures."""
    video = np.random.default_rng(1).integers(0, 256, (2 * count, 1, 32, 32, 3)).astype(np.uint8)
    return batch_of(2 * count, video=video, **more)


def started(one, batch):
    return meta.unbox(jax.jit(one.init)(jax.random.key(0), batch)[0])


def mean(term):
    return float(term.total / term.count)


@pytest.mark.parametrize(("ratio", "side", "kept"), [(0.95, 14, 9), (0.985, 14, 2), (0.99, 14, 1), (0.95, 28, 39)])
def test_how_much_of_the_second_view_is_seen(ratio, side, kept):
    assert random(ratio, "visible").keep(Grid(1, side, side)) == kept


@pytest.mark.slow
def test_the_first_view_is_seen_whole_and_nothing_hidden_of_the_second():
    one = Siamese(MODEL, MASK, None, OBJECTIVES, hidden=32)
    batch = pairs()
    params = started(one, batch)
    done = one.forward(params, batch, CONTEXT)
    assert done.masks.visible.shape == (3, 4)
    cube = np.zeros((3, 16), bool)
    np.put_along_axis(cube, np.asarray(done.masks.visible), True, axis=1)
    seen = cube.reshape(3, 4, 4).repeat(8, 1).repeat(8, 2)[:, None, :, :, None]
    for number, same in ((1, True), (0, False)):
        other = batch["video"].copy()
        rows = other[number::2]
        rows[...] = np.where(seen, rows, 255 - rows)
        found = one.forward(params, {**batch, "video": other}, CONTEXT).predictions["pixels"]
        assert np.array_equal(found, done.predictions["pixels"]) == same


@pytest.mark.slow
def test_one_encoder_has_the_gradients_of_both_views():
    batch = pairs()

    @dataclasses.dataclass(frozen=True)
    class Half(Siamese):
        """Without the gradient by way of one of the views."""

        first: bool = True

        def encode(self, params, batch, masks, *, train):
            tokens = super().encode(params, batch, masks, train=train)
            whole = masks.visible.shape[1] == self.model.grid.size
            return tokens if whole == self.first else jax.lax.stop_gradient(tokens)

    def gradient(kind, **options):
        one = kind(MODEL, MASK, None, OBJECTIVES, hidden=32, **options)
        params = started(one, batch)
        assert set(params) == {"encoder", "decoder"}
        return jax.grad(lambda p: one.loss(p, batch, CONTEXT).terms["pixels"].total)(params)["encoder"]

    whole, first, second = gradient(Siamese), gradient(Half), gradient(Half, first=False)
    for a, b, c in zip(*map(jax.tree.leaves, (whole, first, second)), strict=True):
        assert min(np.abs(b).max(), np.abs(c).max()) > 0
        np.testing.assert_allclose(a, b + c, rtol=0, atol=1e-5 * np.abs(a).max())


class Nowhere(nn.Module):
    """Positions without any difference."""

    width: int

    def __call__(self, index):
        return jnp.zeros((*index.shape, self.width))


def test_without_positions_hidden_tokens_are_alike_and_the_memory_has_no_order():
    model = vit("micro", initial="mae", **IMAGES, **TOKEN | {"positions": lambda grid, width: Nowhere(width)})
    one = Siamese(model, MASK, None, OBJECTIVES, hidden=32)
    batch = pairs()
    params = started(one, batch)
    predict = jax.jit(lambda batch: one.forward(params, batch, CONTEXT).predictions["pixels"])
    found = np.asarray(predict(batch))
    assert np.ptp(found, axis=1).max() < 1e-5
    assert np.ptp(found, axis=0).max() > 1e-3
    cubes = batch["video"].copy().reshape(-1, 4, 8, 4, 8, 3)
    cubes[::2] = cubes[::2, ::-1, :, ::-1]  # another order of the cubes of the first views
    other = predict({**batch, "video": cubes.reshape(batch["video"].shape)})
    np.testing.assert_allclose(other, found, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_trained_network_uses_the_first_view():
    """Both views show one picture of two patterns in random places, so only the first view has what is hidden."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (2, 8, 8, 3))
    which = rng.integers(0, 2, (96, 4, 4))
    pictures = patterns[which].transpose(0, 1, 3, 2, 4, 5).reshape(96, 1, 32, 32, 3).astype(np.uint8)
    video = np.repeat(pictures, 2, axis=0)
    one = Siamese(MODEL, MASK, None, OBJECTIVES, hidden=64, dropout=0.0)
    whole = batch_of(len(video), video=video)
    params = started(one, whole)
    tx = optax.adam(1e-3)

    @jax.jit
    def step(params, state, batch):
        loss = lambda p: one.loss(p, batch, CONTEXT).terms["pixels"]  # noqa: E731
        value, grads = jax.value_and_grad(lambda p: loss(p).total / loss(p).count)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state = tx.init(params)
    untrained = one.loss(params, whole, CONTEXT).terms["pixels"]
    for _ in range(1000):
        chosen = rng.integers(0, 96, 16)
        rows = np.stack([2 * chosen, 2 * chosen + 1], axis=1).ravel()
        batch = {name: value[rows] for name, value in whole.items()}
        batch["seed"] = rng.integers(0, 2**32, (32, 2), dtype=np.uint32)
        params, state, _ = step(params, state, batch)
    given = mean(one.loss(params, whole, CONTEXT).terms["pixels"])
    noise = mean(one.loss(params, without_reference(whole), CONTEXT).terms["pixels"])
    assert given < 0.5 * mean(untrained)
    assert noise > given + 0.5


def test_noise_replaces_the_first_views_alone():
    batch = pairs()
    found = np.asarray(without_reference(batch)["video"])
    np.testing.assert_array_equal(found[1::2], batch["video"][1::2])
    assert np.mean(found[::2] == batch["video"][::2]) < 0.02
    np.testing.assert_array_equal(found, without_reference(batch)["video"])


@pytest.mark.slow
def test_features_of_any_number_of_frames():
    one = siamese.build(MODEL, MASK, OBJECTIVES, hidden=32)
    batch = pairs()
    params = started(one, batch)
    frames = batch["video"][:6].reshape(2, 3, 32, 32, 3)
    single = one.features(params, batch, pool=False)
    tokens = one.features(params, {"video": frames}, pool=False)
    assert tokens.shape == (2, 48, 32)
    np.testing.assert_allclose(tokens.reshape(6, 16, 32), single, rtol=0, atol=1e-5)
    np.testing.assert_allclose(one.features(params, {"video": frames}), tokens.mean(axis=1), rtol=0, atol=1e-6)
    assert one.features(params, {"video": frames}, layer=1, pool=False).shape == (2, 48, 32)
    clips = vit("micro", **IMAGES | {"frames": 4, "tubelet": 2})
    two = siamese.build(clips, MASK, OBJECTIVES, hidden=32)
    with pytest.raises(ValueError, match="clips of 3 frames do not divide into the model's 4"):
        two.features(started(two, batch_of(2, size=32)), {"video": frames})


def test_pictures_have_the_reference():
    one = siamese.build(MODEL, MASK, OBJECTIVES, hidden=32)
    batch = pairs()
    found = one.reconstruct(started(one, batch), batch, CONTEXT)
    assert list(found.rows)[:3] == ["original", "reference", "masked"]
    assert found.borrowed == (found.names[3],)
    assert all(rows.shape == (3, 1, 32, 32, 3) for rows in found.videos)
    np.testing.assert_array_equal(found.rows["original"], batch["video"][1::2])
    np.testing.assert_array_equal(found.rows["reference"], batch["video"][::2])


@pytest.mark.slow
def test_dropout_is_of_the_examples_seeds_and_rows_that_fill_up_do_not_count():
    batch, train = pairs(), CONTEXT.replace(train=True)
    losses = {}
    for dropout in (0.0, 0.1):
        one = siamese.build(MODEL, MASK, OBJECTIVES, hidden=32, dropout=dropout)
        params = started(one, batch)
        losses[dropout] = [mean(one.loss(params, batch, c).terms["pixels"]) for c in (train, train, CONTEXT)]
    assert losses[0.0][0] == losses[0.0][2] == losses[0.1][2]
    assert losses[0.1][0] == losses[0.1][1] != losses[0.1][2]
    valid = np.array([True, True, False, False, True, True])
    some = one.loss(params, {**batch, "valid": valid}, CONTEXT).terms["pixels"]
    half = {name: value[[0, 1, 4, 5]] for name, value in batch.items()}
    assert mean(some) == pytest.approx(mean(one.loss(params, half, CONTEXT).terms["pixels"]), rel=1e-5)
    assert float(some.count) == 2 * 12


def test_rows_of_a_video_stay_together():
    method = siamese.build(MODEL, MASK, OBJECTIVES, hidden=32)
    assert (method.group, method.views) == (2, 2)
    first, second = views({"index": np.arange(6)})
    assert (first["index"].tolist(), second["index"].tolist()) == ([0, 2, 4], [1, 3, 5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": {}}, "objectives is empty"),
        ({"hidden": 0}, "hidden=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"norm": "both"}, "norm='both'"),
        ({"model": vit("micro", **IMAGES, cosine_attention=True)}, "no cosine_attention"),
        ({"model": vit("micro", **IMAGES, layer_scale=0.1)}, "no layer_scale"),
        ({"model": vit("micro", **IMAGES, prefix=1)}, 'decoder_prefix="kept"'),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        siamese.build(**{"model": MODEL, "encoder_mask": MASK, "objectives": OBJECTIVES, **options})
