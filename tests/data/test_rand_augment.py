"""RandAugment: the strength of every operation, the draws, all frames alike, the same inside Dataset.map."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from vmae_jax.data.rand_augment import OPERATIONS, rand_augment
from vmae_jax.data.transforms import apply

GREY = (128, 128, 128)
STRENGTH = 0.7


def frames(t=2, h=24, w=30):
    """Smooth pictures with some noise, not spread over all grey levels."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:h, :w]
    waves = [np.sin(x / (3 + i) + y / 7) + np.cos(y / (4 + i)) for i in range(3)]
    clip = 90 + 35 * np.stack(waves, -1) + random.normal(size=(t, h, w, 3)) * 6
    return clip.clip(10, 230).astype(np.uint8)


def affine(*matrix):
    return lambda im: im.transform(im.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=GREY)


def solarize_add(im):
    table = [min(255, i + int(STRENGTH * 110)) if i < 128 else i for i in range(256)]
    return im.point(table * 3)


def pillow(signed):
    """Every operation, by its name, at `STRENGTH` with a sign: what it does to a picture."""
    return {
        "autocontrast": ImageOps.autocontrast,
        "equalize": ImageOps.equalize,
        "invert": ImageOps.invert,
        "rotate": lambda im: im.rotate(30 * signed, Image.Resampling.BICUBIC, fillcolor=GREY),
        "posterize": lambda im: ImageOps.posterize(im, 4 - int(STRENGTH * 4)),
        "solarize": lambda im: ImageOps.solarize(im, 256 - int(STRENGTH * 256)),
        "solarize_add": solarize_add,
        "color": lambda im: ImageEnhance.Color(im).enhance(1 + 0.9 * signed),
        "contrast": lambda im: ImageEnhance.Contrast(im).enhance(1 + 0.9 * signed),
        "brightness": lambda im: ImageEnhance.Brightness(im).enhance(1 + 0.9 * signed),
        "sharpness": lambda im: ImageEnhance.Sharpness(im).enhance(1 + 0.9 * signed),
        "shear_x": affine(1, 0.3 * signed, 0, 0, 1, 0),
        "shear_y": affine(1, 0, 0, 0.3 * signed, 1, 0),
        "translate_x": affine(1, 0, 0.45 * signed * 30, 0, 1, 0),
        "translate_y": affine(1, 0, 0, 0, 1, 0.45 * signed * 24),
    }


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_every_operation_has_the_official_strength(name, sign):
    operation = pillow(sign * STRENGTH)[name]
    for frame in frames():
        picture = Image.fromarray(frame)
        ours, theirs = np.asarray(OPERATIONS[name](picture, STRENGTH, sign)), np.asarray(operation(picture))
        np.testing.assert_array_equal(ours, theirs)
        assert (ours != frame).any()


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_every_operation_takes_grey_pictures(name):
    picture = Image.fromarray(frames()[0, ..., 0])
    assert OPERATIONS[name](picture, STRENGTH, 1.0).mode == "L"


def test_operations_are_drawn_alike_and_as_often_as_asked():
    """Each of 15 in about 1 of 15, half of them carried out, both signs, strengths around 7 of 10."""
    drawn, counts = [], dict.fromkeys(OPERATIONS, 0)
    patched = {name: lambda image, strength, sign, name=name: drawn.append((name, strength, sign)) or image
               for name in OPERATIONS}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vmae_jax.data.rand_augment.OPERATIONS", patched)
        for word in range(1500):
            rand_augment().painter(np.array([word, 3]))(frames(t=1)[0])
    for name, _, _ in drawn:
        counts[name] += 1
    assert abs(len(drawn) / 6000 - 0.5) < 0.04
    assert min(counts.values()) > 120
    assert max(counts.values()) < 290
    strengths = np.array([strength for _, strength, _ in drawn])
    assert abs(strengths.mean() - 0.7) < 0.01
    assert abs(strengths.std() - 0.05) < 0.01
    assert abs(np.mean([sign for *_, sign in drawn])) < 0.08


def test_all_frames_alike_and_the_same_seed_gives_the_same_clip_in_a_dataset():
    still = np.repeat(frames(t=1), 3, axis=0)
    op = rand_augment()
    mapped = tf.data.Dataset.range(6).map(lambda i: apply([op], {"video": tf.constant(still)}, (i, 7))["video"])
    results = np.stack([np.asarray(clip) for clip in mapped])
    assert (results == results[:, :1]).all()
    assert len({clip.tobytes() for clip in results}) > 3
    np.testing.assert_array_equal(results[2], apply([op], {"video": tf.constant(still)}, (2, 7))["video"])


def test_probability_and_mistakes():
    clip = frames()
    np.testing.assert_array_equal(rand_augment(probability=0.0)({"video": tf.constant(clip)}, (1, 2))["video"], clip)
    with pytest.raises(ValueError, match="magnitude"):
        rand_augment(magnitude=11.0)
