"""DiffMAE: the diffusion, sampling with exact denoisers, and what each kind of decoder reads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.masking.random import random
from vmae_jax.methods import diffmae, teachers
from vmae_jax.methods.diffmae import Denoising
from vmae_jax.methods.diffusion import diffusion
from vmae_jax.models import positions
from vmae_jax.models.classifier import everything
from vmae_jax.models.denoiser import KINDS, encoder_layers, time_waves
from vmae_jax.models.rotary import rotary
from vmae_jax.models.variants import vit
from vmae_jax.patches import gather_cubes, patchify
from vmae_jax.targets.core import objective
from vmae_jax.targets.features import features
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
TOKEN = {"prefix": 1, "decoder_prefix": "kept", "project_bias": True, "positions": positions.sincos_2d()}
IMAGES = {"frames": 1, "tubelet": 1, "resolution": 32, "decoder_depth": 2, "dtype": "float32", "initial": "mae"}
MODEL = vit("micro", **IMAGES, **TOKEN)
RAW = {"pixels": objective(pixels(normalize=False, mean=0.5, deviation=0.5))}
MASK = random(0.75, "visible")
DIFFUSION = diffusion(1000, 0.8)


def images(count=3):
    video = np.random.default_rng(1).integers(0, 256, (count, 1, 32, 32, 3)).astype(np.uint8)
    return batch_of(count, video=video)


def started(one):
    """Parameters of which none is zero by its initial value."""
    params = jax.eval_shape(lambda: meta.unbox(one.init(jax.random.key(0), images())[0]))
    rng = np.random.default_rng(3)
    values = lambda leaf: rng.normal(0, leaf.shape[0] ** -0.5 if leaf.ndim == 2 else 0.2, leaf.shape)  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.asarray(values(leaf), jnp.float32), params)


def test_the_signal_falls_from_whole_to_nearly_nothing():
    share = DIFFUSION.share
    assert share[0] == 1
    assert (np.diff(share) <= 0).all()
    assert (np.diff(share[:800]) < 0).all()
    assert share[-1] < 1e-3
    rates = np.linspace(1e-4, 0.02, 1000) ** 0.8
    np.testing.assert_allclose(share[1:501], np.cumprod(1 - rates)[:500], rtol=1e-5)
    assert (share[1:] <= diffusion(1000, 1.0).share[1:]).all()  # an exponent below 1 adds noise faster
    with pytest.raises(ValueError, match="of the signal is left at the end"):
        diffusion(1000, 3.0)


def test_noise_has_the_variance_that_the_signal_leaves():
    keys = jax.random.split(jax.random.key(0), 4000)
    times = np.asarray(DIFFUSION.times(keys))
    assert (times.min(), times.max()) == (pytest.approx(1, abs=5), pytest.approx(1000, abs=5))
    assert times.mean() == pytest.approx(500, abs=15)
    few = dataclasses.replace(DIFFUSION, share=DIFFUSION.share[:4])
    assert set(np.asarray(few.times(keys)).tolist()) == {1, 2, 3}
    noise = jax.random.normal(jax.random.key(1), (4000, 2, 3))
    time = jnp.asarray([1, 200, 500, 1000] * 1000)
    found = DIFFUSION.noised(jnp.full((4000, 2, 3), 5.0), time, noise)
    for number, at in enumerate((1, 200, 500, 1000)):
        rows = np.asarray(found[number::4])
        assert rows.mean() == pytest.approx(5 * DIFFUSION.share[at] ** 0.5, abs=0.05)
        assert rows.var() == pytest.approx(1 - DIFFUSION.share[at], rel=0.06)


def test_an_earlier_draw_has_the_distribution_of_its_time():
    """From time 200 to 60: the mean and variance of `noised`, whatever way it was reached."""
    keys, clean = jax.random.split(jax.random.key(2), 2), jnp.full((6000, 1, 2), -3.0)
    first, second = (jax.random.normal(key, clean.shape) for key in keys)
    late = DIFFUSION.noised(clean, jnp.full(6000, 200), first)
    early = np.asarray(DIFFUSION.earlier(late, clean, jnp.int32(200), jnp.int32(60), second))
    assert early.mean() == pytest.approx(-3 * DIFFUSION.share[60] ** 0.5, abs=0.03)
    assert early.var() == pytest.approx(1 - DIFFUSION.share[60], rel=0.05)
    share = DIFFUSION.share
    expected = (share[200] / share[60]) ** 0.5 * (1 - share[60]) / (1 - share[200]) ** 0.5
    assert np.mean((early - early.mean()) * np.asarray(first)) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("count", [1, 7, 100])
def test_an_oracle_of_the_clean_signal_is_sampled_exactly(count):
    truth = jax.random.normal(jax.random.key(3), (5, 2, 3))
    keys = jax.random.split(jax.random.key(4), 5)
    found = DIFFUSION.sample(lambda noisy, time: truth, jnp.ones_like(truth), keys, count)
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-5)
    assert len(np.unique(DIFFUSION.grid(count))) == count + 1


def test_the_best_denoiser_of_a_normal_distribution_samples_it():
    """In closed form E[x_0 | x_t] = m + v √s / (v s + 1 - s) · (x_t - √s m), for x_0 of mean m and variance v."""
    mean, variance = 2.0, 0.25

    def clean(noisy, time):
        share = jnp.asarray(DIFFUSION.share)[time]
        gain = variance * jnp.sqrt(share) / (variance * share + 1 - share)
        return mean + gain * (noisy - jnp.sqrt(share) * mean)

    keys = jax.random.split(jax.random.key(5), 4000)
    start = jax.random.normal(jax.random.key(6), (4000, 1, 2))
    found = np.asarray(jax.jit(lambda start: DIFFUSION.sample(clean, start, keys, 1000))(start))
    assert found.mean() == pytest.approx(mean, abs=0.03)
    assert found.var() == pytest.approx(variance, rel=0.06)


def test_decoder_blocks_read_the_encoder_from_its_end():
    assert encoder_layers(24, 8) == [24, 21, 18, 15, 12, 9, 6, 3]
    assert encoder_layers(12, 8) == [12, 11, 9, 8, 6, 5, 3, 2]
    assert encoder_layers(2, 2) == [2, 1]


def test_waves_of_different_times_differ():
    waves = np.asarray(time_waves(jnp.arange(1, 1001), 32))
    assert np.abs(waves).max() <= 1
    distance = np.linalg.norm(waves[1:] - waves[:-1], axis=1)
    assert distance.min() > 0.1
    np.testing.assert_allclose(waves[4, [0, 16]], [np.sin(5), np.cos(5)], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_which_hidden_cubes_a_prediction_reads(kind):
    one = Denoising(MODEL, MASK, None, RAW, kind=kind)
    params, batch = started(one), images(1)

    @jax.jit
    def predict(noisy, video, time):
        masks = one.plan(batch)
        encoded, denoise = one.denoiser(params, {**batch, "video": video}, masks, train=False)
        return masks.visible, encoded, denoise(noisy, time)["pixels"]

    noisy, time = jax.random.normal(jax.random.key(0), (1, 12, 192)), jnp.array([300])
    visible, encoded, found = predict(noisy, batch["video"], time)
    _, _, other = predict(noisy.at[0, 4].add(1.0), batch["video"], time)
    moved = np.abs(other - found).max(axis=(0, 2)) > 1e-6
    assert moved.tolist() == [kind != "cross" or place == 4 for place in range(12)]
    _, tokens, other = predict(noisy, batch["video"], jnp.array([301]))
    np.testing.assert_array_equal(tokens, encoded)  # the encoder has no time
    assert (np.abs(other - found).max(axis=(0, 2)) > 1e-6).all()
    seen = np.zeros(16, bool)
    seen[np.asarray(visible[0])] = True
    seen = seen.reshape(4, 4).repeat(8, 0).repeat(8, 1)[None, None, :, :, None]
    for changed, same in ((~seen, True), (seen, False)):
        _, _, other = predict(noisy, np.where(changed, 255 - batch["video"], batch["video"]), time)
        assert np.array_equal(other, found) == same


def test_the_decoder_reads_the_tokens_after_each_block_without_the_final_norm():
    one = Denoising(MODEL, MASK, None, RAW, kind="cross")
    params, batch = started(one), images(1)
    masks = one.plan(batch)
    encoded, layers = one.encode_layers(params, batch, masks, train=False)
    assert layers.shape == (2, 1, 5, 32)
    cubes = MODEL.normalize(gather_cubes(jnp.asarray(batch["video"]), masks.visible, MODEL.patch))
    for depth in (1, 2):
        encoder, weights = MODEL.encoder.shallow(params["encoder"], depth)
        np.testing.assert_allclose(layers[depth - 1], encoder.apply({"params": weights}, cubes, masks), atol=1e-4)
    np.testing.assert_allclose(encoded, one.encode(params, batch, masks, train=False), atol=1e-4)


def test_with_nothing_but_noise_left_the_input_does_not_depend_on_the_truth():
    """At the last time the noisy cubes are the noise, so the prediction is of the visible cubes alone, as MAE's is."""
    clean = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
    noise = jax.random.normal(jax.random.key(0), clean.shape)
    found = DIFFUSION.noised(clean, jnp.array([1000, 1000]), noise)
    np.testing.assert_allclose(found, noise, rtol=0, atol=1e-3)


def test_the_loss_is_the_mean_error_at_hidden_cubes_with_fresh_noise_for_each_example():
    one = Denoising(MODEL, MASK, None, RAW, kind="cross_self")
    params, batch = started(one), images(4)
    batch["video"][1:] = batch["video"][0]
    batch["seed"][1] = batch["seed"][0]
    batch["valid"][3] = False

    @jax.jit
    def found(batch):
        done = one.forward(params, batch, CONTEXT)
        return done, one.terms(done)["pixels"], one.errors(done)["pixels"]

    done, term, errors = found(batch)
    predictions = np.asarray(done.predictions["pixels"])
    np.testing.assert_array_equal(predictions[0], predictions[1])
    assert np.abs(predictions[0] - predictions[2]).max() > 1e-3
    target = np.asarray(RAW["pixels"].target(batch, done.masks.decode, MODEL.patch))
    assert target.min() < -0.9
    assert target.max() > 0.9
    np.testing.assert_allclose(errors, np.square(predictions - target).mean(-1), rtol=1e-4)
    assert float(term.total) == pytest.approx(float(errors[:3].sum()), rel=1e-5)
    assert float(term.count) == 3 * 12


def test_pictures_are_of_pure_noise_and_of_a_sample():
    one = Denoising(MODEL, MASK, None, RAW, samples=3)
    params, batch = started(one), images(2)
    pictures = jax.jit(lambda batch: one.reconstruct(params, batch, CONTEXT))(batch)
    assert (list(pictures.rows), pictures.borrowed) == (["original", "masked", "reconstructed", "sampled"], ())
    seen = np.asarray(pictures.rows["masked"] == pictures.rows["original"]).all(axis=-1)  # all channels
    assert seen.mean() == 0.25
    for name in ("reconstructed", "sampled"):
        np.testing.assert_array_equal(
            np.asarray(pictures.rows[name])[seen], np.asarray(pictures.rows["original"])[seen]
        )
    assert np.mean(pictures.rows["reconstructed"] != pictures.rows["sampled"]) > 0.3
    normal = dataclasses.replace(one, objectives={"pixels": objective(pixels(joint=True))})
    names = jax.eval_shape(lambda batch: normal.reconstruct(params, batch, CONTEXT, mask=random(0.5)), batch)
    assert names.borrowed == ("reconstructed, true mean and std", "sampled, true mean and std")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": {}}, "got none"),
        ({"objectives": RAW | {"more": RAW["pixels"]}}, "got pixels, more"),
        ({"kind": "self"}, "kind='self': expected one of joint, cross, cross_self"),
        ({"samples": 0}, "samples=0"),
        ({"samples": 11, "steps": 10}, "samples=11: from 1 to the 10 steps"),
        ({"steps": 1, "samples": 1}, "steps=1"),
        ({"exponent": 0.0}, r"exponent=0\.0"),
        ({"model": vit("micro", **IMAGES, cosine_attention=True)}, "no cosine_attention"),
        ({"model": vit("micro", **IMAGES, positions=rotary())}, "no rotary positions"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        diffmae.build(**{"model": MODEL, "encoder_mask": MASK, "objectives": RAW, **options})


def test_a_joint_decoder_may_have_what_the_models_have():
    model = vit("micro", **IMAGES, cosine_attention=True)
    assert diffmae.build(model, MASK, RAW, kind="joint").reconstruct is not None


CLIP = {"style": "clip", "prefix": 1, "prefix_positions": True, "positions": positions.learned()}
TEACHER = vit("micro", width=24, depth=1, frames=1, tubelet=1, resolution=16, dtype="float32", **CLIP)
CLIPS = vit("micro", frames=4, resolution=16, depth=2, decoder_depth=2, dtype="float32")
TAUGHT = {"features": objective(features())}


def test_features_of_a_teacher_get_the_noise_and_are_predicted():
    """Of the first frame of each tubelet, after the last norm, each token scaled."""
    one = diffmae.build(CLIPS, random(0.5), TAUGHT, kind="cross", teacher=TEACHER)
    batch = batch_of(2)
    params, taught = jax.eval_shape(
        lambda: (one.init(jax.random.key(0), batch)[0], one.frozen(jax.random.key(0), batch))
    )
    assert meta.unbox(params)["decoder"]["head_features"]["kernel"].shape[-1] == 24
    rng = np.random.default_rng(4)
    frozen = jax.tree.map(lambda leaf: np.float32(rng.normal(0, 0.3, leaf.shape)), meta.unbox(taught))
    given = Denoising(CLIPS, random(0.5), None, TAUGHT, guides={"teacher": teachers.guide(TEACHER, CLIPS)})
    batch_taught = jax.jit(given.annotated)(frozen, batch)
    frames = batch["video"][:, ::2].reshape(4, 1, 16, 16, 3)
    cubes = TEACHER.normalize(patchify(frames, TEACHER.patch))
    own = jax.jit(lambda w: TEACHER.encoder.apply({"params": w}, cubes, everything(*cubes.shape[:2])))(
        frozen["teacher"]
    )
    tokens = np.asarray(own, np.float64)[:, 1:].reshape(2, -1, 24)
    np.testing.assert_allclose(batch_taught["taught"], tokens, atol=1e-5)
    decode = jnp.asarray([[0, 5], [3, 7]])
    target = features()(batch_taught, decode, CLIPS.patch)
    expected = np.take_along_axis(tokens, np.asarray(decode)[..., None], 1)
    expected = (expected - expected.mean(-1, keepdims=True)) / expected.std(-1, keepdims=True)
    np.testing.assert_allclose(target, expected, atol=1e-4)
    assert one.reconstruct is None
    assert one.supervision == ()


@pytest.mark.parametrize(
    ("objectives", "teacher", "message"),
    [
        (TAUGHT, None, "its features are the target of the objective"),
        (RAW, TEACHER, "its features are the target of the objective"),
        (TAUGHT, vit("micro", frames=1, tubelet=1, resolution=32), "the student as"),
    ],
)
def test_a_teacher_and_its_target_belong_together(objectives, teacher, message):
    with pytest.raises(ValueError, match=message):
        diffmae.build(CLIPS, random(0.5), objectives, teacher=teacher)
