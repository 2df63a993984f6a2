"""UMT: the teacher's attention and directions, and the loss by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.masking.attention_guided import attention_guided
from vmae_jax.masking.tube import tube
from vmae_jax.methods import teachers, umt
from vmae_jax.methods.umt import Aligning
from vmae_jax.models.positions import learned
from vmae_jax.models.rotary import rotary
from vmae_jax.models.variants import vit
from vmae_jax.patches import patchify, unpatchify
from vmae_jax.spec import ConfigError
from vmae_jax.train.optim import adamw
from vmae_jax.train.schedule import Clock, constant
from vmae_jax.train.state import make_init
from vmae_jax.train.step import make_step
from vmae_jax.types import Carried

pytestmark = pytest.mark.slow

OPTIONS = {"frames": 4, "resolution": 16, "patch": 4, "decoder_depth": 1, "dtype": "float32"}
STUDENT = vit("micro", prefix=1, **OPTIONS)
CLIP = vit(
    "micro",
    **{**OPTIONS, "frames": 1, "tubelet": 1, "width": 48, "heads": 2},
    style="clip",
    prefix=1,
    prefix_positions=True,
    positions=learned(),
)
VIDEO = vit("micro", width=24, heads=2, **OPTIONS)
# All options of InternVideo2's stage 1: a second teacher, and class tokens that are compared.
ONE = Aligning(STUDENT, CLIP, attention_guided(0.8), 2, 20, VIDEO, 1, True)
BATCH = batch_of(3, valid=np.array([True, False, True]))


@functools.cache
def trained():
    """The state before and after some steps on the same clips, and the metrics of the first and of the last."""
    method = ONE.method()
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), BATCH)[0])
    tx, _ = adamw(constant(1e-2), weight_decay=0.0).build(shapes, Clock(40, 1.0, 3))
    begun = state = meta.unbox(jax.jit(make_init(method, tx, frozen=method.frozen))(jax.random.key(0), BATCH))
    step, found = jax.jit(make_step(method, tx)), []
    for _ in range(40):
        state, metrics = step(state, BATCH)
        found.append(metrics)
    return begun, state, found


@pytest.mark.slow
def test_the_loss_is_the_distance_of_directions():
    """By hand, over the last layers of both; a row that pads the batch does not count."""
    begun, _, [metrics, *_] = trained()
    taught = ONE.taught(begun.frozen, BATCH)
    masks = ONE.plan({**BATCH, "attention": taught.attention})
    assert masks.visible.shape == (3, 2 * 4)
    mine = ONE.aligned(begun.params, BATCH, masks, train=False)
    for kind, names in (("image", ["image_0", "image_1"]), ("video", ["video_0"]), ("pooled", ["pooled"])):
        errors = []
        for name in names:
            theirs = np.asarray((taught.pooled if name == "pooled" else taught.tokens)[name])
            if name != "pooled":
                theirs = np.take_along_axis(theirs, np.asarray(masks.visible)[..., None], 1)
            np.testing.assert_allclose(np.linalg.norm(theirs, axis=-1), 1, rtol=1e-5)
            np.testing.assert_allclose(np.linalg.norm(mine[name], axis=-1), 1, rtol=1e-5)
            errors.append(np.square(np.asarray(mine[name]) - theirs).sum(-1)[BATCH["valid"]].mean())
        np.testing.assert_allclose(metrics[f"loss/{kind}"], np.mean(errors), rtol=1e-4)
        assert 0 <= np.mean(errors) <= 4


@pytest.mark.slow
def test_the_student_learns_and_the_teachers_are_as_they_were():
    begun, ended, found = trained()
    assert float(found[-1]["loss"]) < 0.5 * float(found[0]["loss"])
    jax.tree.map(np.testing.assert_array_equal, begun.frozen, ended.frozen)
    assert set(begun.frozen) == {"teacher", "projector", "video_teacher"}


def probabilities(model, weights, batch):
    """The weights of the last block's attention, [b heads q k], by plain numpy from the tokens that enter it."""
    clips = teachers._clips(model, STUDENT, batch["video"])
    cubes = model.normalize(patchify(clips, model.patch))
    encoder = model.encoder.clone(collect=(0, 1))
    everywhere = teachers.everything(*cubes.shape[:2])
    _, levels = encoder.apply({"params": weights}, cubes, everywhere)
    last = jax.tree.map(lambda leaf: np.asarray(leaf[1], np.float64), weights["blocks"])
    x = np.asarray(levels[0], np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + encoder.style.epsilon)
    x = x * last["norm1"]["scale"] + last["norm1"]["bias"]
    kernel = last["attention"]["qkv"]["kernel"]
    q = (x @ kernel[0] + last["attention"]["qkv"]["q_bias"]).reshape(*x.shape[:2], 2, -1)
    k = (x @ kernel[1]).reshape(*x.shape[:2], 2, -1)
    logits = np.einsum("bqhc,bkhc->bhqk", q, k) / np.sqrt(q.shape[-1])
    found = np.exp(logits - logits.max(-1, keepdims=True))
    return found / found.sum(-1, keepdims=True)


def test_the_attention_is_that_of_the_class_token_or_of_all():
    frozen = trained()[0].frozen
    found = teachers.seen(CLIP, frozen["teacher"], BATCH, STUDENT, levels=1, attended=True).attention
    want = probabilities(CLIP, frozen["teacher"], BATCH)[:, :, 0, 1:].mean(axis=1)
    np.testing.assert_allclose(found, want.reshape(3, 32), atol=1e-6)
    found = teachers.seen(VIDEO, frozen["video_teacher"], BATCH, STUDENT, levels=2, attended=True).attention
    np.testing.assert_allclose(found, probabilities(VIDEO, frozen["video_teacher"], BATCH).mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(np.asarray(found).sum(-1), 1, rtol=1e-5)


def test_rotations_reach_the_attention():
    model = vit("micro", positions=rotary(), **OPTIONS)
    weights = meta.unbox(teachers.initial(model, jax.random.key(3)))
    weights = jax.tree.map(lambda leaf: leaf * 8, weights)  # so that attention is not even
    tokens = jax.random.normal(jax.random.key(4), (1, 32, 32))
    found = np.asarray(teachers.attention(model, weights, jnp.tile(tokens[:, :1], (1, 32, 1))))
    assert found.std() > 1e-4  # alike tokens differ by their places alone


def test_no_gradient_reaches_the_teachers_and_hidden_pixels_reach_no_student():
    begun = trained()[0]
    context = Carried(frozen=begun.frozen).context(jax.random.key(0))

    def loss(frozen):
        terms = ONE.loss(begun.params, BATCH, Carried(frozen=frozen).context(jax.random.key(0))).terms
        return sum(term.total for term in terms.values())

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(begun.frozen)):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))
    taught = ONE.taught(context.frozen, BATCH)
    masks = ONE.plan({**BATCH, "attention": taught.attention})
    visible = np.zeros((3, 32), bool)
    np.put_along_axis(visible, np.asarray(masks.visible), True, axis=1)
    cubes = np.array(patchify(BATCH["video"], STUDENT.patch))
    cubes[~visible] = 0
    video = np.asarray(unpatchify(cubes, STUDENT.grid, STUDENT.patch))
    run = jax.jit(lambda video: ONE.aligned(begun.params, {**BATCH, "video": video}, masks, train=False))
    before, after = (run(one) for one in (BATCH["video"], video))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_other_masks_need_no_attention():
    method = umt.build(STUDENT, CLIP, tube(0.75), layers=1, projection=20)
    assert (method.supervision, method.reconstruct) == ((), None)
    params = jax.eval_shape(lambda: method.init(jax.random.key(0), BATCH)[0])
    assert set(params["heads"]) == {"head_image_0", "norm_image_0"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": 3}, "layers=3, video_layers=0: model has 2 blocks, 3 are needed"),
        ({"video_layers": 1}, "video_layers=1: at least 1 with a video_teacher"),
        ({"video_teacher": VIDEO}, "video_layers=0: at least 1"),
        ({"model": vit("micro", **OPTIONS), "pooled": True}, "need prefix=1"),
        ({"teacher": vit("micro", **{**OPTIONS, "frames": 8})}, "the same clips as the same tokens"),
        ({"teacher": vit("micro", cosine_attention=True, **OPTIONS)}, "cosine attention"),
        ({"teacher": vit("micro", causal=True, **OPTIONS)}, "or a causal one"),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        umt.build(**{"model": STUDENT, "teacher": CLIP, "encoder_mask": attention_guided(0.8), "layers": 2, **options})


def test_a_loss_without_its_teacher_is_refused():
    with pytest.raises(ConfigError, match="needs its teacher"):
        ONE.loss(trained()[0].params, BATCH, Carried().context(jax.random.key(0)))
