"""TGM: similarities by hand, what captions change, the contrast, and what has no gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.masking.text_guided import text_guided
from vmae_jax.masking.tube import tube
from vmae_jax.methods import tgm
from vmae_jax.methods.masked import Masked
from vmae_jax.methods.parts.nce import Nce
from vmae_jax.methods.tgm import TextGuided
from vmae_jax.models.positions import learned
from vmae_jax.models.text import transformer
from vmae_jax.models.variants import vit
from vmae_jax.spec import ConfigError
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Carried, Context

pytestmark = pytest.mark.slow

OPTIONS = {"resolution": 16, "patch": 4, "decoder_depth": 1, "width": 16, "depth": 1, "dtype": "float32"}
MODEL = vit("micro", frames=4, **OPTIONS)
CLIP = vit(
    "micro",
    **{**OPTIONS, "resolution": 32, "patch": 16},
    frames=1,
    tubelet=1,
    style="clip",
    prefix=1,
    prefix_positions=True,
    positions=learned(),
)
TEXT = transformer(vocabulary=20, length=6, width=16, size=8, depth=1, heads=2, dtype="float32")
PIXELS = {"pixels": objective(pixels())}
ONE = TextGuided(
    MODEL,
    text_guided(0.6),
    None,
    PIXELS,
    image=CLIP,
    text=TEXT,
    contrast=Nce("video", "caption", 0.07, True, (8,), 0.5),
)
NUMBERS = np.random.default_rng(5).integers(1, 20, (4, 6)).astype(np.int32)
THERE = np.arange(6) < np.array([[6], [3], [4], [1]])
CAPTIONS = {"text": NUMBERS, "text_mask": THERE, "text_valid": np.array([True, True, True, True])}
BATCH = batch_of(4, **CAPTIONS)
CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)


def drawn(init, seed):
    shapes = jax.eval_shape(lambda: meta.unbox(init()))
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0, 0.3, leaf.shape), jnp.float32), shapes)


PARAMS = drawn(lambda: ONE.init(jax.random.key(0), BATCH)[0], 0)
FROZEN = drawn(lambda: ONE.frozen(jax.random.key(0), BATCH), 1)


@jax.jit
def found(params, frozen, batch):
    """Everything that a step computes, and the gradients of the contrast alone."""
    context = Context(CONTEXT.key, CONTEXT.step, frozen=frozen, train=False)

    def contrast(params, frozen):
        rows = ONE.loss(params, batch, Context(CONTEXT.key, CONTEXT.step, frozen=frozen, train=False)).rows
        return ONE.compare(params, rows, context).terms["contrast"].total

    loss = ONE.loss(params, batch, context)
    compared = ONE.compare(params, loss.rows, context)
    grads = jax.grad(contrast, argnums=(0, 1))(params, frozen)
    done = ONE.forward(params, batch, context)
    plain = Masked(MODEL, text_guided(0.6), None, PIXELS).loss(params, done.batch, context)
    return {"loss": loss, "compared": compared, "grads": grads, "done": done, "plain": plain}


@functools.cache
def first():
    return found(PARAMS, FROZEN, BATCH)


def test_similarities_are_cosines_of_each_frames_patches():
    """By hand, of the second clip's third frame, which CLIP sees at twice its size."""
    frame = BATCH["video"][1:2, 2:3]
    one = tgm.teachers.pictures(CLIP, jnp.asarray(frame))
    assert one.shape == (1, 1, 32, 32, 3)
    cubes = CLIP.normalize(tgm.patchify(one, CLIP.patch))
    tokens = CLIP.encoder.apply({"params": FROZEN["image"]}, cubes, tgm.everything(1, 4))[0, 1:]
    patches = np.asarray(tokens) @ np.asarray(FROZEN["projection"]["kernel"])
    caption = np.asarray(TEXT.embed(FROZEN["text"], jnp.asarray(NUMBERS[1:2, :3]), jnp.ones((1, 3), bool)))[0]
    want = patches @ caption / np.linalg.norm(patches, axis=1) / np.linalg.norm(caption)
    similar = np.asarray(first()["done"].batch["similarity"])
    assert similar.shape == (4, 4, 2, 2)
    np.testing.assert_allclose(similar[1, 2].reshape(-1), want, atol=1e-5)
    np.testing.assert_array_equal(first()["done"].masks.visible.shape, (4, 2 * (16 - 9)))


def test_captions_decide_the_masks_and_their_padding_does_not():
    masks = np.asarray(first()["done"].masks.visible)
    moved = {name: np.roll(array, 1, axis=0) for name, array in CAPTIONS.items()}
    assert (np.asarray(found(PARAMS, FROZEN, {**BATCH, **moved})["done"].masks.visible) != masks).any()
    padded = {**BATCH, "text": np.where(THERE, NUMBERS, 7)}
    np.testing.assert_array_equal(found(PARAMS, FROZEN, padded)["done"].masks.visible, masks)


def test_a_clip_without_a_caption_has_a_tube_and_no_part_in_the_contrast():
    without = found(PARAMS, FROZEN, {**BATCH, "text_valid": np.array([True, False, True, True])})
    slots = np.asarray(without["done"].masks.visible)[1].reshape(2, 7)
    np.testing.assert_array_equal(slots[0] + 16, slots[1])
    np.testing.assert_array_equal(without["done"].batch["caption"][1], 0)
    assert float(without["compared"].terms["contrast"].count) == 3
    rows = {name: np.delete(np.asarray(array), 1, axis=0) for name, array in without["loss"].rows.items()}
    of_three = ONE.compare(PARAMS, rows, CONTEXT)
    for of in ("terms", "metrics"):
        for name, one in getattr(of_three, of).items():
            other = getattr(without["compared"], of)[name]
            assert float(one.total) == pytest.approx(float(other.total), rel=1e-5), name


def test_the_contrast_by_hand():
    loss, rows = first()["compared"], first()["loss"].rows
    encoded = np.asarray(first()["done"].encoded)
    np.testing.assert_allclose(rows["video"], encoded.mean(1), atol=1e-6)
    both = []
    for name in ("video", "caption"):
        head = PARAMS["contrast"][name]["layer_0"]
        x = np.asarray(rows[name]) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
        both.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    logits = np.exp(float(PARAMS["contrast"]["log_scale"])) * both[0] @ both[1].T
    errors = [np.log(np.exp(one).sum(1)) - np.diagonal(one) for one in (logits, logits.T)]
    term = loss.terms["contrast"]
    assert float(term.total / term.count) == pytest.approx(np.mean(errors), rel=1e-4)
    assert float(term.weight) == 0.5
    assert set(loss.metrics) == {"contrast_accuracy", "contrast_temperature"}


def test_equal_embeddings_are_at_chance():
    rows = {"video": jnp.ones((4, 16)), "caption": jnp.ones((4, 8)), "": jnp.ones(4, bool)}
    term = ONE.compare(PARAMS, rows, CONTEXT).terms["contrast"]
    assert float(term.total / term.count) == pytest.approx(np.log(4), rel=1e-5)


def test_the_contrast_trains_the_encoder_and_its_heads_and_never_clip():
    own, clip = first()["grads"]
    size = lambda tree: max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert size(clip) == size(own["decoder"]) == 0
    assert size(own["encoder"]) > 0
    assert min(size(own["contrast"][name]) for name in ("video", "caption", "log_scale")) > 0


def test_without_the_contrast_it_is_a_masked_autoencoder():
    method = tgm.build(MODEL, text_guided(0.6), PIXELS, CLIP, TEXT, weight=0.0)
    params = jax.eval_shape(lambda: meta.unbox(method.init(jax.random.key(0), BATCH)[0]))
    assert set(params) == {"encoder", "decoder"}
    assert method.global_loss is None
    ours, plain = (first()[name].terms["pixels"] for name in ("loss", "plain"))
    np.testing.assert_array_equal(ours.total, plain.total)
    assert (method.inputs, method.supervision) == (("video",), ("text",))


def test_batches_that_cannot_be_used_are_refused():
    method = tgm.build(MODEL, tube(0.75), PIXELS, CLIP, TEXT)
    method.check(BATCH)
    with pytest.raises(ConfigError, match=r"gives the number 20, .* has a vocabulary of 20"):
        method.check({**BATCH, "text": NUMBERS + 1 * (NUMBERS == 19)})
    method.check_first(BATCH)
    with pytest.raises(ConfigError, match="none of the 4 clips of the first batch has a caption"):
        method.check_first({**BATCH, "text_valid": np.zeros(4, bool)})
    with pytest.raises(ConfigError, match="follow captions need CLIP"):
        ONE.loss(PARAMS, BATCH, Carried().context(jax.random.key(0)))
    with pytest.raises(ValueError, match="texts of 6 numbers, and the text tower has positions for 5"):
        transformer(vocabulary=20, length=5, width=16, heads=2).embed({}, NUMBERS, THERE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": MODEL}, "image is a model of one frame of 3 channels"),
        ({"weight": -1.0}, "weight=-1.0, .*: at least 0"),
        ({"temperature": 0.0}, "above 0"),
        ({"objectives": {}}, "objectives is empty"),
    ],
)
def test_mistakes(options, words):
    given = {"model": MODEL, "encoder_mask": text_guided(), "objectives": PIXELS, "image": CLIP, "text": TEXT}
    with pytest.raises(ValueError, match=words):
        tgm.build(**{**given, **options})


def test_mistakes_of_a_text_tower():
    with pytest.raises(ValueError, match="unknown attention 'splash': there are auto, plain, mapped, cudnn, flat"):
        transformer(attention="splash")
    with pytest.raises(ValueError, match="a width that the heads divide"):
        transformer(width=10, heads=4)
