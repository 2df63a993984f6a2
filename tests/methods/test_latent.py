"""Latent prediction: what target and prediction depend on, what the target's weights do, and what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.commands.config import load_config
from vmae_jax.masking.multiblock import multiblock
from vmae_jax.methods import latent
from vmae_jax.methods.latent import Latent, normalized
from vmae_jax.models.rotary import rotary
from vmae_jax.models.variants import vit
from vmae_jax.spec import ConfigError, build
from vmae_jax.targets.core import l1
from vmae_jax.train.optim import adamw
from vmae_jax.train.schedule import Clock, constant
from vmae_jax.train.state import make_init
from vmae_jax.train.step import make_step
from vmae_jax.types import Context

OPTIONS = {"frames": 4, "resolution": 32, "patch": 8, "dtype": "float32", "decoder_depth": 1, "project_bias": True}
MODEL = vit("micro", positions=rotary("tiled"), initial="vjepa", **OPTIONS)
TEACHER = vit("micro", width=24, depth=1, positions=rotary("tiled"), **OPTIONS)
MASKS = {"short": multiblock(2, 0.25, context=0.4, targets=0.4), "long": multiblock(1, 0.6, context=0.5, targets=0.7)}
ONE = Latent(MODEL, MASKS, None, l1(), True)
BATCH = batch_of(3, size=32)


@functools.cache
def params():
    """Random weights of which none is zero, as a mask token is at first."""
    fresh = meta.unbox(jax.jit(ONE.init)(jax.random.key(0), BATCH)[0])
    keys = iter(jax.random.split(jax.random.key(1), 100))
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape), fresh)


def context(average=None, frozen=None):
    return Context(key=jax.random.key(0), step=jnp.int32(0), frozen=frozen, train=False, average=average)


@functools.cache
def _predict(name):
    number = list(MASKS).index(name)

    def predict(params, batch, plan):
        return ONE.predictions(params, batch, plan, number, train=False)["features"]

    return jax.jit(predict)


def changed(batch, tokens):
    """The batch with other pixels in some tokens of the first clip."""
    video = batch["video"].copy()
    grid, patch = MODEL.grid, MODEL.patch
    for token in tokens:
        t, rest = divmod(int(token), grid.slot)
        y, x = divmod(rest, grid.w)
        window = (slice(t * patch.t, (t + 1) * patch.t), slice(y * 8, y * 8 + 8), slice(x * 8, x * 8 + 8))
        video[(0, *window)] = 255 - video[(0, *window)]
    return {**batch, "video": video}


def test_the_second_stage_of_internvideo_next_has_its_teachers_network_and_little_context():
    method = load_config("configs/internvideo_next.py:B").method
    model, teacher = build(method.model), build(method.teacher)
    assert (model.encoder.width, model.encoder.blocks["depth"], model.encoder.prefix) == (768, 12, 4)
    assert {**model.encoder.blocks, "drop_path": 0.0} == teacher.encoder.blocks
    assert model.encoder.width == teacher.encoder.width
    assert (model.grid.t, model.grid.slot) == (32, 256)
    seen = {name: build(mask).counts(model.grid)[0] for name, mask in method.masks.items()}
    assert seen == {"short": 32 * 50, "long": 32 * 17}  # at most 400 tokens for 8 frames
    assert method.normalize is False


@pytest.mark.slow
def test_a_prediction_sees_its_context_and_nothing_else():
    plan = ONE.plans(BATCH)["short"]
    seen = set(np.asarray(plan.visible[0])[np.asarray(plan.valid[0])].tolist())
    others = [token for token in range(MODEL.grid.size) if token not in seen]
    before = np.asarray(_predict("short")(params(), BATCH, plan))
    np.testing.assert_array_equal(_predict("short")(params(), changed(BATCH, others), plan), before)
    after = np.asarray(_predict("short")(params(), changed(BATCH, list(seen)[:1]), plan))
    assert not np.allclose(after[0], before[0], atol=1e-4)
    np.testing.assert_array_equal(after[1:], before[1:])


def test_a_target_is_of_the_whole_clip():
    plan = ONE.plans(BATCH)["short"]
    hidden = int(plan.decode[0, 0])
    compute = jax.jit(lambda p, b: ONE.targets(p["encoder"], b))
    before, after = (np.asarray(compute(params(), one)) for one in (BATCH, changed(BATCH, [hidden])))
    assert not np.allclose(after[0, hidden], before[0, hidden], atol=1e-3)
    elsewhere = np.delete(np.arange(MODEL.grid.size), hidden)
    assert not np.allclose(after[0, elsewhere], before[0, elsewhere], atol=1e-6)


def test_padding_changes_no_prediction():
    """Other tokens where context or targets only pad leave all others as they are."""
    plan = ONE.plans(BATCH)["long"]
    assert not np.asarray(plan.valid).all()
    visible = jnp.where(plan.valid, plan.visible, (plan.visible + 7) % MODEL.grid.size)
    decode = jnp.where(plan.decode_valid, plan.decode, 0)
    moved = dataclasses.replace(plan, visible=visible, decode=decode)
    before, after = (np.asarray(_predict("long")(params(), BATCH, one)) for one in (plan, moved))
    real = np.asarray(plan.decode_valid)
    np.testing.assert_allclose(after[real], before[real], atol=1e-5)


def test_no_gradient_reaches_the_target():
    def loss(average):
        terms = ONE.loss(params(), BATCH, context(average)).terms
        return sum(term.total for term in terms.values())

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params())):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_the_loss_is_the_mean_over_masks_and_real_tokens():
    """By hand, from targets and predictions; a row that pads the batch does not count."""
    batch = {**BATCH, "valid": np.array([True, False, True])}
    loss = jax.jit(ONE.loss)(params(), batch, context(params()))
    raw = np.asarray(ONE.targets(params()["encoder"], batch))
    for name, plan in ONE.plans(batch).items():
        wanted = np.asarray(normalized(np.take_along_axis(raw, np.asarray(plan.decode)[..., None], 1), 32))
        found = np.asarray(_predict(name)(params(), batch, plan))
        real = np.asarray(plan.decode_valid) & batch["valid"][:, None]
        term = loss.terms[name]
        np.testing.assert_allclose(term.total / term.count, np.abs(found - wanted).mean(-1)[real].mean(), rtol=1e-5)
        assert float(term.weight) == 0.5
        assert float(term.count) == real.sum()
    spread = loss.metrics["target_spread"]
    np.testing.assert_allclose(spread.total / spread.count, raw[batch["valid"]].std(1).mean(), rtol=1e-5)


def test_targets_are_normalised_for_each_token_and_level():
    x = jax.random.normal(jax.random.key(0), (2, 3, 8)) * 5 + 2
    found = np.asarray(normalized(x, 4)).reshape(2, 3, 2, 4)
    np.testing.assert_allclose(found.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(found.var(-1), 1, atol=1e-4)
    np.testing.assert_array_equal(normalized(jnp.ones((1, 1, 4)), 4), np.zeros((1, 1, 4)))


def test_the_loss_of_the_mean_is_zero_where_all_targets_are_alike():
    """A collapsed target: the metrics show it, whatever the loss is."""
    collapsed = jax.tree.map(jnp.zeros_like, params()["encoder"])
    collapsed["norm"]["bias"] = jnp.arange(32.0)
    compute = jax.jit(ONE.loss)
    metrics = compute(params(), BATCH, context({"encoder": collapsed})).metrics
    assert float(metrics["loss_of_mean"].total) == pytest.approx(0, abs=1e-4)
    assert float(metrics["loss_of_copy"].total) == pytest.approx(0, abs=1e-4)
    assert float(metrics["target_spread"].total) == pytest.approx(0, abs=1e-4)
    healthy = compute(params(), BATCH, context(params())).metrics
    assert float(healthy["loss_of_mean"].total / healthy["loss_of_mean"].count) > 0.1
    assert float(healthy["loss_of_copy"].total / healthy["loss_of_copy"].count) > 0.1


@functools.cache
def two_steps(decay):
    """The state before and after two steps with an average of this decay."""
    method = ONE.method()
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), BATCH)[0])
    tx, _ = adamw(constant(1e-2)).build(shapes, Clock(2, 1.0, 3))
    begun = meta.unbox(make_init(method, tx, ema=True)(jax.random.key(0), BATCH))
    begun = dataclasses.replace(begun, params=params())
    step = jax.jit(make_step(method, tx, ema_decay=decay))
    return begun, step(step(begun, BATCH)[0], BATCH)[0]


@pytest.mark.slow
def test_the_average_at_the_ends_of_its_range():
    """With a decay of 1 the target never moves, with one of 0 it is the encoder."""
    begun, ended = two_steps(1.0)
    jax.tree.map(np.testing.assert_array_equal, begun.extra["ema"], ended.extra["ema"])
    assert not np.array_equal(ended.params["encoder"]["embed"]["kernel"], begun.params["encoder"]["embed"]["kernel"])
    _, ended = two_steps(0.0)
    jax.tree.map(np.testing.assert_array_equal, ended.params, ended.extra["ema"])


@pytest.mark.slow
def test_a_frozen_teacher_stays_and_the_student_learns():
    """SALT: another width, the teacher to the bit as it was, and a loss that falls on fixed clips."""
    method = latent.build(MODEL, MASKS, teacher=TEACHER)
    assert not method.averaged
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), BATCH)[0])
    assert meta.unbox(shapes)["predictor"]["head_features"]["kernel"].shape[-1] == 24
    tx, _ = adamw(constant(1e-2), weight_decay=0.0).build(shapes, Clock(60, 1.0, 3))
    state = meta.unbox(make_init(method, tx, frozen=method.frozen)(jax.random.key(0), BATCH))
    teacher = jax.device_get(state.frozen)
    step, losses = jax.jit(make_step(method, tx)), []
    for _ in range(60):
        state, metrics = step(state, BATCH)
        losses.append(float(metrics["loss"]))
    jax.tree.map(np.testing.assert_array_equal, teacher, state.frozen)
    assert losses[-1] < 0.9 * losses[0]
    assert losses[-1] < float(metrics["loss_of_mean"])


def test_initial_values_are_divided_by_the_depth():
    """The last matrix of each branch of block k has a deviation of 0.02 / √(2k)."""
    model = vit("micro", depth=4, width=128, positions=rotary(), initial="vjepa", **OPTIONS)
    deep = Latent(model, MASKS, None, l1(), True)
    blocks = meta.unbox(jax.jit(deep.init)(jax.random.key(0), BATCH)[0])["encoder"]["blocks"]
    want = 0.02 / np.sqrt(2 * np.arange(1, 5))
    np.testing.assert_allclose(np.std(blocks["attention"]["proj"]["kernel"], axis=(1, 2)), want, rtol=0.05)
    np.testing.assert_allclose(np.std(blocks["mlp"]["fc2"]["kernel"], axis=(1, 2)), want, rtol=0.05)
    np.testing.assert_allclose(np.std(blocks["mlp"]["fc1"]["kernel"], axis=(1, 2)), 0.02, rtol=0.05)
    np.testing.assert_array_equal(blocks["attention"]["qkv"]["k_bias"], np.zeros((4, 128)))


def test_each_mask_can_have_its_token():
    two = Latent(dataclasses.replace(MODEL, decoder={**MODEL.decoder, "mask_tokens": 2}), MASKS, None, l1(), True)
    tokens = jnp.stack([params()["predictor"]["mask_token"], 2 * params()["predictor"]["mask_token"]])
    given = {**params(), "predictor": {**params()["predictor"], "mask_token": tokens}}
    plan = ONE.plans(BATCH)["short"]
    first, second = (
        np.asarray(two.predictions(given, BATCH, plan, number, train=False)["features"]) for number in (0, 1)
    )
    np.testing.assert_allclose(first, _predict("short")(params(), BATCH, plan), atol=1e-5)
    assert not np.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: latent.build(MODEL, {}), "masks is empty"),
        (lambda: latent.build(MODEL, {"a": multiblock(context=0.01)}), "context=0.01"),
        (lambda: latent.build(vit("micro", mask_tokens=3, **OPTIONS), MASKS), "mask_tokens=3: one for all"),
        (lambda: latent.build(MODEL, MASKS, teacher=vit("micro", **{**OPTIONS, "patch": 16})), "2x2x2"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_loss_without_its_target_is_refused():
    with pytest.raises(ConfigError, match="needs its target encoder"):
        ONE.loss(params(), BATCH, context())
