"""RVM: a state that is carried, what predictions depend on, and what the loss reads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.masking.motion_guided import motion_guided
from vmae_jax.masking.random import random
from vmae_jax.methods import rvm
from vmae_jax.methods.rvm import Recurrent
from vmae_jax.models.positions import sinusoid_1d
from vmae_jax.models.recurrent import GatedCore
from vmae_jax.models.variants import vit
from vmae_jax.spec import ConfigError
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context, Grid

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
FORM = {"prefix": 1, "decoder_prefix": "kept", "project_bias": True, "style": "tanh", "initial": "mae"}
UNIT = {"mean": [0.0] * 3, "std": [1.0] * 3, "positions": sinusoid_1d([2, 2])}
MODEL = vit(
    "micro", frames=1, tubelet=1, resolution=16, depth=1, decoder_depth=1, dtype="float32", **FORM, **UNIT
)  # fmt: skip
OBJECTIVES = {"pixels": objective(pixels(normalize=False))}
MASK = random(0.75, "visible")
SOURCES, TARGETS, TOKENS = 3, 2, 4
ONE = Recurrent(MODEL, MASK, None, OBJECTIVES, {}, SOURCES, 1)
NUMBERS = np.array([[0, 1, 2, 6, 9], [4, 5, 6, 20, 69]], np.int32)


def clips():
    video = np.random.default_rng(1).integers(0, 256, (2, SOURCES + TARGETS, 16, 16, 3)).astype(np.uint8)
    return batch_of(2, video=video, frames=NUMBERS)


@functools.cache
def started():
    """Parameters, with some noise, so that nothing is zero by its initial value."""
    params = jax.eval_shape(lambda: meta.unbox(ONE.init(jax.random.key(0), clips())[0]))
    rng = np.random.default_rng(3)
    values = lambda leaf: rng.normal(0, leaf.shape[-2] ** -0.5 if leaf.ndim > 1 else 0.2, leaf.shape)  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.asarray(values(leaf), jnp.float32), params)


@functools.cache
def program():
    """Plan, predictions, loss and states of a batch, compiled once for all tests."""

    @jax.jit
    def run(params, batch):
        done, found = ONE.predicted(params, batch, CONTEXT)
        loss = ONE.loss(params, batch, CONTEXT)
        return done.masks.visible, done.predictions["pixels"], found, loss, ONE.features(params, batch, pool=False)

    return run


def ran(**changed):
    return program()(started(), {**clips(), **changed})


@functools.cache
def steps():
    return jax.jit(ONE.frame_states)


def test_frames_one_by_one_are_the_scan_of_a_clip():
    """To 1e-5, and the features of a clip are the states; the first frame has the state of a single picture."""
    video, state, found = clips()["video"][:1], None, []
    for number in range(video.shape[1]):
        state = jnp.zeros((1, 1 + TOKENS, MODEL.encoder.width)) if state is None else state
        placed, states = steps()(started(), video[0, number : number + 1], state)
        state = states[-1]
        found.append(np.asarray(placed).reshape(1, TOKENS, -1))
    whole = np.asarray(ran()[4][:1])
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.01
    alone = jax.jit(ONE.frame_features)(started(), video[0, 1:2])
    assert np.abs(np.asarray(alone).reshape(1, TOKENS, -1) - found[1]).max() > 0.01  # a state of frame 0 is missing


def test_the_order_of_the_sources_matters():
    video = clips()["video"].copy()
    last = np.asarray(ran()[2].states)[:, -1]
    video[:, : SOURCES - 1] = video[:, : SOURCES - 1][:, ::-1]  # the last source stays the last
    assert np.abs(np.asarray(ran(video=video)[2].states)[:, -1] - last).max() > 1e-4


def test_with_open_gates_the_state_is_that_of_the_current_frame():
    """With u = 1 and r = 0 the state before has no influence; with u = 0 nothing else has."""
    core = GatedCore({"depth": 1, "heads": 2, "hidden": 16, "norm": "late", "initial": "mae"})
    rng = np.random.default_rng(0)
    states, tokens = rng.normal(size=(2, 1, 3, 8)), rng.normal(size=(1, 3, 8))
    tokens = jnp.asarray(tokens - tokens.mean(-1, keepdims=True) + 1)  # a matrix of a constant can force the gates
    params = meta.unbox(jax.eval_shape(core.init, jax.random.key(0), tokens, tokens))["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape)), params)
    gates = [f"{gate}_{of}" for gate in ("update", "reset") for of in ("input", "state")]
    assert all(set(params[name]) == {"kernel"} for name in gates)  # no bias
    run = jax.jit(lambda params, state: core.apply({"params": params}, state, tokens)[0])
    for name, value in (("update_input", 100.0), ("reset_input", -100.0)):
        params[name] = {"kernel": jnp.full((8, 8), value)}
    for name in ("update_state", "reset_state"):
        params[name] = {"kernel": jnp.zeros((8, 8))}
    one, other = (run(params, state) for state in states)
    np.testing.assert_allclose(one, other, atol=1e-6)
    kept = run({**params, "update_input": {"kernel": jnp.full((8, 8), -100.0)}}, states[0])
    np.testing.assert_allclose(kept, states[0], atol=1e-6)
    reading = {**params, "reset_input": {"kernel": jnp.full((8, 8), 100.0)}}
    assert np.abs(run(reading, states[0]) - run(reading, states[1])).max() > 0.01


def test_hidden_pixels_change_the_loss_and_no_prediction():
    visible, prediction, _, loss, _ = ran()
    hidden = np.ones((2 * TARGETS, TOKENS), bool)
    np.put_along_axis(hidden, np.asarray(visible), False, axis=1)
    places = hidden.reshape(2, TARGETS, 2, 2).repeat(8, 2).repeat(8, 3)[..., None]
    for changed, same in ((places, True), (~places, False)):
        video = clips()["video"].copy()
        video[:, SOURCES:] = np.where(changed, 255 - video[:, SOURCES:], video[:, SOURCES:])
        _, other, _, error, _ = ran(video=video)
        assert np.array_equal(other, prediction) == same
        assert float(error.terms["pixels"].total) != float(loss.terms["pixels"].total)


def test_the_distance_to_a_target_changes_its_prediction_alone():
    prediction = np.asarray(ran()[1])
    numbers = NUMBERS.copy()
    numbers[0, SOURCES + 1] += 3
    moved = np.abs(np.asarray(ran(frames=numbers)[1]) - prediction).max(axis=(1, 2))
    assert moved[1] > 1e-3
    np.testing.assert_array_equal(moved[[0, 2, 3]], 0)
    later = np.asarray(ran(frames=NUMBERS + 7)[1])  # the distances are the same
    np.testing.assert_array_equal(later, prediction)


def test_loss_and_metrics_by_hand():
    """The mean squared error of raw pixels at hidden patches, of rows that count, and that of the last source."""
    valid = np.array([True, False])
    visible, prediction, found, loss, _ = ran(valid=valid)
    cubes = clips()["video"].reshape(2, -1, 2, 8, 2, 8, 3).transpose(0, 1, 2, 4, 3, 5, 6).reshape(2, -1, TOKENS, 192)
    error, copied = [], []
    for target in range(TARGETS):
        hidden = sorted({*range(TOKENS)} - {*np.asarray(visible)[target].tolist()})
        truth, last = cubes[0, SOURCES + target][hidden] / 255, cubes[0, SOURCES - 1][hidden] / 255
        error.append(np.square(np.asarray(prediction)[target] - truth).mean(axis=1))
        copied.append(np.square(last - truth).mean(axis=1))
    mean = lambda part: float(part.total / part.count)  # noqa: E731
    assert mean(loss.terms["pixels"]) == pytest.approx(np.mean(error), rel=1e-5)
    assert mean(loss.metrics["copied"]) == pytest.approx(np.mean(copied), rel=1e-5)
    assert mean(loss.metrics["update"]) == pytest.approx(np.asarray(found.update)[0].mean(), rel=1e-5)
    length = np.linalg.norm(np.asarray(found.states)[0, -1], axis=-1).mean()
    assert mean(loss.metrics["state_norm"]) == pytest.approx(length, rel=1e-5)


def test_positions_of_other_sizes_are_interpolated():
    """The flattened index means the same place: the middle of four tokens is between them."""
    table = lambda h, w: np.asarray(sinusoid_1d([4, 4])(Grid(1, h, w), 8).apply({}, jnp.arange(h * w)[None])[0])  # noqa: E731
    np.testing.assert_array_equal(table(4, 4), sinusoid_1d()(Grid(1, 4, 4), 8).apply({}, jnp.arange(16)[None])[0])
    wide = table(4, 12).reshape(4, 12, 8)[:, 1::3]  # every third one is at the centre of an old token
    np.testing.assert_allclose(wide, table(4, 4).reshape(4, 4, 8), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": {}}, "objectives is empty"),
        ({"sources": 0}, "sources=0"),
        ({"core_depth": 0}, "core_depth=0"),
        ({"gaps": 0}, "gaps=0"),
        ({"model": vit("micro", frames=4, resolution=16)}, "frames are encoded one by one"),
        ({"model": vit("micro", frames=1, tubelet=1, resolution=16, layer_scale=0.1)}, "no cosine_attention"),
        ({"model": vit("micro", frames=1, tubelet=1, resolution=16, prefix=1)}, 'decoder_prefix="kept"'),
        ({"encoder_mask": motion_guided(0.75)}, "of single frames"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        rvm.build(**{"model": MODEL, "encoder_mask": MASK, "objectives": OBJECTIVES, **options})


def test_distances_that_the_decoder_cannot_express_are_refused():
    check = rvm.build(MODEL, MASK, OBJECTIVES, SOURCES).check
    assert check is not None
    check(clips())
    numbers = NUMBERS.copy()
    numbers[1, -1] += 1
    with pytest.raises(ConfigError, match=r"targets are 4 to 64 frames after the last source.*0 to 63"):
        check({**clips(), "frames": numbers})
    check({**clips(), "frames": numbers, "valid": np.array([True, False])})
    with pytest.raises(ValueError, match="at least one is predicted"):
        jax.eval_shape(ONE.init, jax.random.key(0), {**clips(), "video": clips()["video"][:, :SOURCES]})
