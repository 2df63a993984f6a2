"""RandAugment: every operation against its formula, the draws, all frames alike, the same inside Dataset.map."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vmae_jax.data.rand_augment import OPERATIONS, rand_augment
from vmae_jax.data.transforms import apply

# What each magnitude means: the published rules of the "increasing" operations, worked out by hand for 2.5, 7 and 10.
STRENGTHS = (0.25, 0.7, 1.0)
DEGREES = (7.5, 21.0, 30.0)  # 30 at most
BITS = (3, 2, 0)  # that are kept: 4 less a whole number
THRESHOLD = (192, 77, 0)  # levels from here on are inverted: 256 less a whole number
ADDED = (27, 77, 110)  # to levels below 128: a whole number, 110 at most
BLEND = (0.225, 0.63, 0.9)  # away from 1
SHEAR = (0.075, 0.21, 0.3)
SHIFT = (0.1125, 0.315, 0.45)  # of the width or the height


def frames(t=2, h=24, w=30):
    """Smooth pictures with some noise, not spread over all grey levels."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:h, :w]
    waves = [np.sin(x / (3 + i) + y / 7) + np.cos(y / (4 + i)) for i in range(3)]
    clip = 110 + 50 * np.stack(waves, -1) + random.normal(size=(t, h, w, 3)) * 6
    return clip.clip(10, 230).astype(np.uint8)


def stretched(x):
    low, high = x.min((0, 1)), x.max((0, 1))
    return np.floor((x - low) * (255 / (high - low)))


def equalized(x):
    """Each channel through its own cumulative histogram."""
    out = np.empty_like(x)
    for c in range(3):
        counts = np.bincount(x[..., c].ravel(), minlength=256)
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        below = np.cumsum(counts) - counts
        out[..., c] = np.minimum((step // 2 + below) // step, 255)[x[..., c]]
    return out


def luma(x):
    return np.round(x @ [0.299, 0.587, 0.114])


def smoothed(x):
    """A 3x3 mean whose centre counts five times; the border stays."""
    out, (h, w, _) = x.astype(float), x.shape
    around = sum(out[i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3))
    out[1:-1, 1:-1] = np.round((around + 4 * out[1:-1, 1:-1]) / 13)
    return out


def blended(degenerate, x, factor):
    return np.clip(degenerate + factor * (x - degenerate), 0, 255)


def moved(x, matrix, offset=(0.0, 0.0)):
    """Cubic convolution at (x, y) -> matrix (x, y) + offset, both from the centres of pixels; grey from outside."""
    h, w, _ = x.shape
    rows, columns = np.mgrid[:h, :w] + 0.5
    (a, b), (c, d) = matrix
    across, down = a * columns + b * rows + offset[0], c * columns + d * rows + offset[1]
    outside = (across < 0) | (across >= w) | (down < 0) | (down >= h)
    left, top = np.floor(across - 0.5), np.floor(down - 0.5)

    def weight(distance):
        t = np.abs(distance)
        return np.where(t < 1, t**3 - 2 * t**2 + 1, np.where(t < 2, -(t**3) + 5 * t**2 - 8 * t + 4, 0))

    total = 0.0
    for i in range(-1, 3):
        for j in range(-1, 3):
            share = weight(down - 0.5 - top - i) * weight(across - 0.5 - left - j)
            pixel = x[np.clip(top + i, 0, h - 1).astype(int), np.clip(left + j, 0, w - 1).astype(int)]
            total = total + share[..., None] * pixel
    return np.where(outside[..., None], 128, np.clip(total, 0, 255))


def rotated(x, degrees):
    """Counter-clockwise around the centre."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix, centre = np.array([[cos, -sin], [sin, cos]]), np.array([x.shape[1], x.shape[0]]) / 2
    return moved(x, matrix, centre - matrix @ centre)


def official(at, sign):
    """Every operation in NumPy, by its name, at `STRENGTHS[at]` with a sign."""
    blend, shear, shift = 1 + sign * BLEND[at], sign * SHEAR[at], sign * SHIFT[at]
    none = ((1, 0), (0, 1))
    return {
        "autocontrast": stretched,
        "equalize": equalized,
        "invert": lambda x: 255 - x,
        "rotate": lambda x: rotated(x, sign * DEGREES[at]),
        "posterize": lambda x: x // 2 ** (8 - BITS[at]) * 2 ** (8 - BITS[at]),
        "solarize": lambda x: np.where(x < THRESHOLD[at], x, 255 - x),
        "solarize_add": lambda x: np.where(x < 128, np.minimum(x + ADDED[at], 255), x),
        "color": lambda x: blended(luma(x)[..., None], x, blend),
        "contrast": lambda x: blended(np.round(luma(x).mean()), x, blend),
        "brightness": lambda x: blended(0, x, blend),
        "sharpness": lambda x: blended(smoothed(x), x, blend),
        "shear_x": lambda x: moved(x, ((1, shear), (0, 1))),
        "shear_y": lambda x: moved(x, ((1, 0), (shear, 1))),
        "translate_x": lambda x: moved(x, none, (shift * x.shape[1], 0)),
        "translate_y": lambda x: moved(x, none, (0, shift * x.shape[0])),
    }


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_every_operation_has_the_official_strength(name, at, sign):
    """Computed in NumPy from the published numbers; results of convolutions and blends may be rounded differently."""
    operation = official(at, sign)[name]
    for frame in frames():
        ours = np.asarray(OPERATIONS[name](Image.fromarray(frame), STRENGTHS[at], sign))
        assert np.abs(ours - np.floor(operation(frame.astype(int)))).max() <= 1
        assert (ours != frame).any()


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_every_operation_takes_grey_pictures(name):
    picture = Image.fromarray(frames()[0, ..., 0])
    assert OPERATIONS[name](picture, 0.7, 1.0).mode == "L"


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
