"""Fusion of encoders: what reaches the other one, and when; order is irrelevant; what a row lacks gives nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from vmae_jax.models.classifier import everything
from vmae_jax.models.fusion import Tower, alone, bottleneck, joint
from vmae_jax.models.rotary import rotary
from vmae_jax.models.spectrogram import spectrogram
from vmae_jax.models.variants import vit

SIZE = {"size": "micro", "width": 16, "depth": 3, "heads": 2, "patch": 4, "dtype": "float32"}
MODELS = {"video": vit(frames=2, resolution=8, **SIZE), "audio": spectrogram(frames=8, bins=4, **SIZE)}
ENCODERS = {name: model.encoder for name, model in MODELS.items()}
ROWS = 2


def started():
    rng = np.random.default_rng(0)
    weights, cubes = {}, {}
    for name, model in MODELS.items():
        cubes[name] = jnp.asarray(rng.normal(size=(ROWS, model.grid.size, model.cube)), jnp.float32)
        init = lambda m=model, c=cubes[name]: m.encoder.init(jax.random.key(0), c, everything(*c.shape[:2]))["params"]  # noqa: E731
        shapes = meta.unbox(jax.eval_shape(init))
        weights[name] = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)
    fused = {"bottleneck": jnp.asarray(rng.normal(size=(4, 16)), jnp.float32)}
    layers = meta.unbox(jax.eval_shape(lambda: joint(1).init(jax.random.key(0), ENCODERS)))
    return (
        weights,
        cubes,
        fused | jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), layers),
    )


WEIGHTS, CUBES, FUSED = started()


def towers(cubes, names=("video", "audio"), present=None):
    return {
        name: Tower(ENCODERS[name], WEIGHTS[name], cubes[name], everything(*cubes[name].shape[:2]), None, present)
        for name in names
    }


def reach(fuse):
    """How much the sound's cubes move the video's tokens."""

    def weighed(audio):
        out = fuse(FUSED, towers({**CUBES, "audio": audio}))["video"].fused
        return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum()

    return float(jnp.abs(jax.jit(jax.grad(weighed))(CUBES["audio"])).max())


def test_what_crosses_takes_two_blocks():
    """The bottleneck is written in one block and read in the next."""
    assert [reach(bottleneck(start)) for start in (3, 2)] == [0, 0]
    assert reach(bottleneck(1)) > 1e-4
    assert reach(joint(1)) > 1e-4


@jax.jit
def fused(cubes):
    few, many = bottleneck(1), bottleneck(3)
    return {
        "ours": few(FUSED, towers(cubes)),
        "swapped": few(FUSED, towers(cubes, ("audio", "video"))),
        "one": few(FUSED, towers(cubes, ("video",))),
        "apart": many(FUSED, towers(cubes)),
        "alone": {name: alone(one) for name, one in towers(cubes).items()},
        "lacking": few(FUSED, {**towers(cubes, ("video",)), **towers(cubes, ("audio",), jnp.array([True, False]))}),
    }


def test_order_is_irrelevant_and_without_exchange_it_is_the_encoder():
    found = fused(CUBES)
    for name in ENCODERS:
        np.testing.assert_allclose(found["ours"][name].fused, found["swapped"][name].fused, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found["apart"][name].fused, found["alone"][name], rtol=0, atol=1e-5)
        assert np.abs(found["ours"][name].fused - found["alone"][name]).max() > 1e-3


def test_order_of_tokens_is_irrelevant():
    turned = towers({**CUBES, "audio": CUBES["audio"][:, ::-1]})
    plan = turned["audio"].masks
    turned["audio"] = turned["audio"]._replace(masks=plan.replace(visible=plan.visible[:, ::-1]))
    one, other = jax.jit(lambda: (bottleneck(1)(FUSED, towers(CUBES)), bottleneck(1)(FUSED, turned)))()
    np.testing.assert_allclose(one["video"].fused, other["video"].fused, rtol=0, atol=1e-5)
    np.testing.assert_allclose(one["audio"].fused, other["audio"].fused[:, ::-1], rtol=0, atol=1e-5)


def test_a_row_that_lacks_a_modality_gets_nothing_from_it():
    found, louder = fused(CUBES), fused({**CUBES, "audio": 2 * CUBES["audio"]})
    video, changed = (np.asarray(one["lacking"]["video"].fused) for one in (found, louder))
    np.testing.assert_array_equal(video[1], changed[1])
    assert np.abs(video[0] - changed[0]).max() > 1e-3
    np.testing.assert_allclose(video[1], np.asarray(found["one"]["video"].fused)[1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(video[0], np.asarray(found["ours"]["video"].fused)[0], rtol=0, atol=1e-6)


def test_what_is_refused():
    turned = vit(frames=2, resolution=8, **SIZE, positions=rotary()).encoder
    with pytest.raises(ValueError, match="'video' has rotary positions"):
        bottleneck(1).check({"video": turned, "audio": ENCODERS["audio"]})
    wide = vit(frames=2, resolution=8, **{**SIZE, "width": 32}).encoder
    with pytest.raises(ValueError, match="one width, got video 32, audio 16"):
        joint(1).check({"video": wide, "audio": ENCODERS["audio"]})
    with pytest.raises(ValueError, match="start=4"):
        bottleneck(4).check(ENCODERS)
