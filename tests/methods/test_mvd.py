"""MVD: what each teacher sees, the loss by hand, and which parameters a branch moves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.masking.tube import tube
from vmae_jax.methods import mvd, teachers
from vmae_jax.methods.mvd import MaskedDistillation, Teacher
from vmae_jax.models.positions import sincos_2d, sincos_time_space, sinusoid_1d
from vmae_jax.models.variants import vit
from vmae_jax.spec import ConfigError
from vmae_jax.targets.core import smooth_l1
from vmae_jax.train.optim import adamw
from vmae_jax.train.schedule import Clock, constant
from vmae_jax.train.state import make_init
from vmae_jax.train.step import make_step
from vmae_jax.types import Carried, Grid

pytestmark = pytest.mark.slow

OPTIONS = {"frames": 4, "resolution": 16, "patch": 4, "decoder_depth": 1, "dtype": "float32"}
MODEL = vit("micro", positions=sincos_time_space(), **OPTIONS)
VIDEO = vit("micro", width=24, **OPTIONS)
IMAGE = vit("micro", **{**OPTIONS, "frames": 1, "tubelet": 1}, prefix=1, positions=sincos_2d())
MASK = tube(0.75)
ONE = MaskedDistillation(MODEL, MASK, {"image": Teacher(IMAGE, 0.0), "video": Teacher(VIDEO, 1.0)}, smooth_l1(), False)
BATCH = batch_of(3, valid=np.array([True, False, True]))
RATE, DECAY = 1e-2, 0.1


@functools.cache
def trained():
    """The state before and after two steps, and the metrics of the first."""
    method = ONE.method()
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), BATCH)[0])
    tx, _ = adamw(constant(RATE), weight_decay=DECAY).build(shapes, Clock(2, 1.0, 3))
    begun = meta.unbox(jax.jit(make_init(method, tx, frozen=method.frozen))(jax.random.key(0), BATCH))
    step = jax.jit(make_step(method, tx))
    after, metrics = step(begun, BATCH)
    return begun, step(after, BATCH)[0], metrics


def test_a_branch_of_weight_0_moves_by_weight_decay_alone():
    begun, ended, metrics = trained()
    branch, moved = (state.params["image_decoder"] for state in (begun, ended))
    factor = (1 - RATE * DECAY) ** 2
    matrices = ("blocks", "mlp", "fc1", "kernel")
    kernel, after = branch, moved
    for name in matrices:
        kernel, after = kernel[name], after[name]
    np.testing.assert_allclose(after, factor * kernel, rtol=1e-5)
    np.testing.assert_array_equal(moved["mask_token"], branch["mask_token"])
    np.testing.assert_array_equal(moved["norm"]["scale"], branch["norm"]["scale"])
    assert not np.array_equal(ended.params["video_decoder"]["mask_token"], begun.params["video_decoder"]["mask_token"])
    assert float(metrics["loss/image"]) > 0  # a term of weight 0 is measured


def test_the_teachers_are_as_they_were():
    begun, ended, _ = trained()
    jax.tree.map(np.testing.assert_array_equal, begun.frozen, ended.frozen)
    assert set(begun.frozen) == {"image_teacher", "video_teacher"}


def test_the_loss_is_the_smooth_error_at_hidden_tokens():
    """By hand, from targets and predictions; a row that pads the batch does not count."""
    begun, _, metrics = trained()
    masks = ONE.plan(BATCH)
    assert masks.decode.shape == (3, 24)
    predicted = jax.jit(functools.partial(ONE.predictions, train=False))(begun.params, BATCH, masks)
    for name, width in (("image", 32), ("video", 24)):
        target = np.asarray(ONE.targets(begun.frozen, BATCH, name))
        assert target.shape == (3, 32, width)
        apart = np.abs(np.asarray(predicted[name]) - np.take_along_axis(target, np.asarray(masks.decode)[..., None], 1))
        error = np.where(apart < 1, apart**2 / 2, apart - 0.5)[BATCH["valid"]].mean()
        np.testing.assert_allclose(metrics[f"loss/{name}"], error, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], metrics["loss/video"], rtol=1e-6)


def test_the_target_is_the_last_block_without_its_norm():
    """With the student as the teacher, it is the student's own output: a decoder that copies would have no error."""
    weights = trained()[0].params["encoder"]
    found = teachers.seen(MODEL, weights, BATCH, MODEL, levels=1).levels[0]
    depth = MODEL.encoder.blocks["depth"]
    want = ONE.features({"encoder": weights}, BATCH, layer=depth, pool=False)
    np.testing.assert_allclose(found, want, atol=1e-5)
    normed = ONE.features({"encoder": weights}, BATCH, pool=False)
    assert np.abs(np.asarray(found) - normed).max() > 0.1


def test_an_image_teacher_sees_the_first_frame_of_each_tubelet():
    weights = trained()[0].frozen
    before = np.asarray(ONE.targets(weights, BATCH, "image"))
    for frame, slot in ((0, 0), (1, None), (2, 1), (3, None)):
        video = BATCH["video"].copy()
        video[:, frame] = 255 - video[:, frame]
        after = np.asarray(ONE.targets(weights, {**BATCH, "video": video}, "image"))
        changed = (np.abs(after - before).max(axis=(0, 2)) > 1e-4).reshape(2, 16).any(axis=1)
        assert list(changed) == [slot == 0, slot == 1]


def test_a_teacher_of_another_patch_sees_frames_of_another_size():
    """Frames of 16 pixels become 32, as PyTorch's bicubic interpolation has them; a flat frame stays flat."""
    teacher = vit("micro", **{**OPTIONS, "frames": 1, "tubelet": 1, "resolution": 32, "patch": 8})
    teachers.check("image_teacher", teacher, MODEL)
    flat = np.full_like(BATCH["video"], 7)
    clips = teachers._clips(teacher, MODEL, flat)
    assert clips.shape == (6, 1, 32, 32, 3)
    np.testing.assert_allclose(clips, 7.0, rtol=1e-5)


def test_targets_can_be_normalised():
    one = dataclasses.replace(ONE, normalize=True)
    state = trained()[0]
    loss = jax.jit(one.loss)(state.params, BATCH, Carried(frozen=state.frozen).context(jax.random.key(0)))
    spread = loss.metrics["video_of_mean"]
    assert 0.1 < float(spread.total / spread.count) < 0.6  # half the variance of the targets, which is 1 or less


def test_positions_have_a_quarter_for_time():
    grid, width = Grid(3, 2, 5), 32
    table = np.asarray(sincos_time_space()(grid, width).apply({}, jnp.arange(grid.size)[None]))[0]
    flat = np.asarray(sincos_2d()(grid, 24).apply({}, jnp.arange(grid.size)[None]))[0]
    np.testing.assert_allclose(table[:, 8:], flat, atol=1e-6)
    np.testing.assert_allclose(table[::10, 0], np.sin([0, 1, 2]), atol=1e-6)
    np.testing.assert_allclose(table[::10, 4], np.cos([0, 1, 2]), atol=1e-6)
    with pytest.raises(ValueError, match="a multiple of 16"):
        sincos_time_space()(grid, 24).apply({}, jnp.arange(2)[None])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give image_teacher, video_teacher or both"),
        ({"image_teacher": VIDEO}, "image_teacher is a model of one frame"),
        ({"video_teacher": vit("micro", **{**OPTIONS, "frames": 8})}, "the same clips as the same tokens"),
        ({"image_teacher": vit("micro", **{**OPTIONS, "frames": 1, "tubelet": 1, "resolution": 32})}, "8x8 tokens"),
        ({"video_teacher": VIDEO, "video_weight": -1.0}, r"video_weight=-1\.0"),
        ({"video_teacher": vit("micro", levels=[0, 1], **OPTIONS)}, "several levels"),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        mvd.build(MODEL, MASK, **options)


def test_a_loss_without_teachers_is_refused():
    with pytest.raises(ConfigError, match="needs its teachers"):
        ONE.loss(trained()[0].params, BATCH, Carried().context(jax.random.key(0)))


def test_a_teacher_alone_has_one_branch():
    method = mvd.build(vit("micro", positions=sinusoid_1d(), **OPTIONS), MASK, video_teacher=VIDEO)
    params = jax.eval_shape(lambda: method.init(jax.random.key(0), BATCH)[0])
    assert set(params) == {"encoder", "video_decoder"}
