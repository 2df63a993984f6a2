"""PSNR and SSIM: closed forms, another implementation, and reconstructions of masked clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from vmae_jax.eval.collect import About
from vmae_jax.eval.restoration import psnr, restoration, ssim
from vmae_jax.masking.core import Masker
from vmae_jax.masking.random import random
from vmae_jax.methods import masked
from vmae_jax.methods.classify import build as classifier
from vmae_jax.models.variants import vit
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.train.sharding import unbox
from vmae_jax.types import Carried, Context, Pictures


def clip(value, shape=(1, 2, 16, 20, 3)):
    return jnp.full(shape, value, jnp.uint8)


def noise(seed, shape=(2, 3, 24, 32, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_psnr_of_an_even_difference_is_a_closed_form():
    np.testing.assert_allclose(psnr(clip(100), clip(110)), 20 * np.log10(255 / 10), rtol=1e-6)
    np.testing.assert_allclose(psnr(clip(0), clip(255)), 0, atol=1e-3)
    np.testing.assert_array_equal(psnr(clip(7), clip(7)), 100)
    half = np.asarray(clip(50)).copy()
    half[:, :, :8] += 20
    np.testing.assert_allclose(psnr(clip(50), jnp.asarray(half)), 10 * np.log10(255**2 / 200), rtol=1e-6)


def test_ssim_of_even_frames_is_a_closed_form():
    a, b, c1 = 100.0, 140.0, (0.01 * 255) ** 2
    np.testing.assert_allclose(ssim(clip(100), clip(140)), (2 * a * b + c1) / (a * a + b * b + c1), rtol=1e-3)
    np.testing.assert_allclose(ssim(noise(0), noise(0)), 1, atol=1e-5)
    assert (np.asarray(ssim(noise(0), 255 - noise(0))) < 0).all()
    with pytest.raises(ValueError, match="at least 11 pixels a side, got 10x20"):
        ssim(clip(1, (1, 1, 10, 20, 3)), clip(1, (1, 1, 10, 20, 3)))


def test_ssim_is_that_of_gaussian_filters_within_the_frame():
    truth = ndimage.gaussian_filter(noise(1).astype(float), (0, 0, 2, 2, 0)).astype(np.uint8)
    found = (0.8 * truth + 0.2 * noise(2)).astype(np.uint8)
    blur = lambda x: ndimage.gaussian_filter(x, 1.5, truncate=3.5)[5:-5, 5:-5]  # noqa: E731
    expected = np.zeros((2, 3))
    for row, frame in np.ndindex(2, 3):
        for channel in range(3):
            x, y = (one[row, frame, ..., channel].astype(float) for one in (truth, found))
            u, v = blur(x), blur(y)
            similar = (2 * u * v + 6.5025) * (2 * (blur(x * y) - u * v) + 58.5225)
            similar /= (u * u + v * v + 6.5025) * (blur(x * x) - u * u + blur(y * y) - v * v + 58.5225)
            expected[row, frame] += similar.mean() / 3
    assert 0.2 < expected.min() < expected.max() < 0.98
    np.testing.assert_allclose(ssim(jnp.asarray(truth), jnp.asarray(found)), expected, atol=2e-4)


MODEL = {"size": "micro", "frames": 4, "resolution": 32, "patch": 8, "dtype": "float32"}


def batches(count=3, rows=2):
    for start in range(0, count, rows):
        index = np.arange(start, start + rows)
        valid = index < count
        shape = (rows, 4, 32, 32, 3)
        video = np.stack([noise(number, shape[1:]) // 4 + 60 for number in index])
        yield {
            "video": video,
            "seed": np.stack([index, index], 1).astype(np.uint32),
            "index": np.where(valid, index, -1).astype(np.int32),
            "valid": valid,
        }


def method_of(normalize, ratio=0.75):
    method = masked.build(vit(**MODEL), random(ratio), {"pixels": objective(pixels(normalize=normalize))})
    return method, unbox(jax.jit(method.init)(jax.random.key(0), next(iter(batches())))[0])


def test_more_hidden_pixels_are_restored_worse_and_names_are_those_of_the_masks():
    method, params = method_of(normalize=False)
    masks = {"25": random(0.25), "90": random(0.9)}
    evaluator = restoration(masks)
    evaluator.check(method, params, next(iter(batches())), Carried(None, {}))
    found = evaluator(method, params, batches(), About())
    assert set(found) == {"25_psnr", "25_ssim", "90_psnr", "90_ssim", "videos"}
    assert found["videos"] == 3
    assert found["25_psnr"] > found["90_psnr"] + 3
    assert found["25_ssim"] > found["90_ssim"]
    # Untrained predictions are about equally wrong everywhere, so the error grows with the number of hidden cubes.
    assert found["25_psnr"] - found["90_psnr"] == pytest.approx(10 * np.log10(0.9 / 0.25), abs=1)


def test_the_own_mask_and_normalised_targets():
    """By hand from the pictures; what uses the true statistics is under a name of its own."""
    method, params = method_of(normalize=True)
    found = restoration()(method, params, batches(), About(name=lambda number: f"v{number}.mp4"))
    assert set(found) == {"psnr", "ssim", "true_statistics_psnr", "true_statistics_ssim", "videos"}
    values = []
    for batch in batches():
        context = Context(jax.random.key(0), jnp.int32(0), None, {}, train=False)
        pictures = method.reconstruct(params, batch, context)
        [honest] = [n for n in pictures.rows if n.startswith("reconstructed") and n not in pictures.borrowed]
        original = pictures.rows["original"].astype(jnp.float32)
        error = jnp.square(original - pictures.rows[honest].astype(jnp.float32)).mean(axis=(2, 3, 4))
        values += np.asarray(10 * jnp.log10(255**2 / error).mean(axis=1))[batch["valid"]].tolist()
        seen = np.asarray(pictures.rows["masked"] == pictures.rows["original"])
        assert seen.mean() > 0.2
        np.testing.assert_array_equal(
            np.asarray(pictures.rows[honest])[seen], np.asarray(pictures.rows["original"])[seen]
        )
    assert found["psnr"] == pytest.approx(np.mean(values), rel=1e-4)
    assert [row[0] for row in found.tables["videos.csv"]] == ["video", "v0.mp4", "v1.mp4", "v2.mp4"]
    column = found.tables["videos.csv"][0].index("psnr")
    assert [row[column] for row in found.tables["videos.csv"][1:]] == pytest.approx(values, rel=1e-4)
    assert found["true_statistics_psnr"] > found["psnr"]


def test_of_two_views_the_restored_one_is_measured_and_further_rows_have_names():
    def reconstruct(params, batch, context):
        """Each first view as what is made of each second view, and a row that is right."""
        first, second = jnp.asarray(batch["video"])[::2], jnp.asarray(batch["video"])[1::2]
        return Pictures.of({"original": second, "reference": first, "reconstructed": first, "sampled": second})

    method, params = method_of(normalize=False)
    [*given] = batches(4)
    pairs = [{**batch, "index": np.full(2, number, np.int32)} for number, batch in enumerate(given)]
    found = restoration()(method._replace(reconstruct=reconstruct, views=2, group=2), params, pairs)
    assert set(found) == {"psnr", "ssim", "sampled_psnr", "sampled_ssim", "videos"}
    assert (found["videos"], found["sampled_psnr"]) == (2, 100)
    expected = [float(psnr(batch["video"][1:], batch["video"][:1]).mean()) for batch in given]
    assert found["psnr"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert [row[0] for row in found.tables["videos.csv"][1:]] == ["0", "1"]


def test_what_reconstructs_nothing_or_takes_no_mask_is_refused():
    batch = next(iter(batches()))
    plain = classifier(vit(**MODEL), classes=3)
    with pytest.raises(ValueError, match="reconstructs no pixels"):
        restoration().check(plain, {}, batch, Carried(None, {}))
    method, params = method_of(normalize=False)
    fixed = method._replace(reconstruct=lambda p, b, c: Pictures.of({"original": b["video"]}))
    with pytest.raises(ValueError, match="takes no other mask"):
        restoration({"50": random(0.5)}).check(fixed, {}, batch, Carried(None, {}))
    looks = Masker(keep=lambda grid: 8, score=lambda keys, batch, grid: batch["motion"])
    with pytest.raises(ValueError, match="needs 'motion', which the data do not have"):
        restoration({"50": looks}).check(method, params, batch, Carried(None, {}))
