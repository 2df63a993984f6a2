"""Transforms: as the official ones, driven by the seed alone, the same eagerly and in the graph."""

import numpy as np
import pytest
from PIL import Image

from vmae_jax.data import crops, transforms
from vmae_jax.data.decode import Wanted
from vmae_jax.data.rand_augment import rand_augment
from vmae_jax.data.scaling import shown
from vmae_jax.data.tf import tensorflow

ALL = [
    transforms.multi_scale_crop(24),
    transforms.random_resized_crop(24),
    transforms.center_crop(24),
    transforms.center_crop(24, short_side=30),
    transforms.resize(24),
    transforms.flip(0.5),
]


def clip(height=40, width=52, frames=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3)).astype(np.uint8)


def run(transform, video, seed):
    return transform({"video": tensorflow().constant(video)}, np.array(seed, np.uint32))["video"].numpy()


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_eager_and_graph_agree_and_the_seed_decides(transform):
    tf = tensorflow()
    seeds = np.array([[k, 2**32 - 1 - k] for k in range(6)], np.uint32)
    videos = np.stack([clip(seed=k) for k in range(6)])
    dataset = tf.data.Dataset.from_tensor_slices((videos, seeds))
    dataset = dataset.map(lambda video, seed: transform({"video": video, "other": seed}, seed))
    for number, features in enumerate(dataset.as_numpy_iterator()):
        eager = run(transform, videos[number], seeds[number])
        np.testing.assert_array_equal(features["video"], eager)
        np.testing.assert_array_equal(eager, run(transform, videos[number], seeds[number]))
        np.testing.assert_array_equal(features["other"], seeds[number])
        assert eager.dtype == np.uint8
        if size := getattr(transform, "size", None):
            assert eager.shape == (3, size, size, 3)


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_all_frames_are_treated_alike(transform):
    still = np.repeat(clip(frames=1), 4, axis=0)
    for word in range(4):
        out = run(transform, still, [word, 0])
        assert (out == out[:1]).all()


def official_crops(height, width, size, scales=(1, 0.875, 0.75, 0.66)):
    """Every (left, top, right, bottom) that the official GroupMultiScaleCrop may draw."""
    sides = [int(min(height, width) * scale) for scale in scales]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    boxes = set()
    for i, crop_h in enumerate(sides):
        for j, crop_w in enumerate(sides):
            if abs(i - j) > 1:
                continue
            step_w, step_h = (width - crop_w) // 4, (height - crop_h) // 4
            places = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0)]
            places += [(1, 1), (3, 1), (1, 3), (3, 3)]
            for across, down in places:
                left, top = across * step_w, down * step_h
                boxes.add((left, top, left + crop_w, top + crop_h))
    return boxes


@pytest.mark.parametrize(("height", "width", "size"), [(64, 85, 32), (85, 64, 48), (65, 65, 64)])
def test_multi_scale_crop_draws_the_official_crops_as_pil_scales_them(height, width, size):
    """Each result is PIL's picture of one of the official boxes, as near as scaling is to PIL; many occur."""
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([rows * 2, columns * 2, (rows * 7 + columns * 13) % 256], -1).astype(np.uint8)
    boxes = sorted(official_crops(height, width, size))
    pil = Image.fromarray(picture)
    truth = np.stack([np.asarray(pil.crop(box).resize((size, size), Image.BILINEAR)).astype(int) for box in boxes])
    found = set()
    for word in range(60):
        out = run(transforms.multi_scale_crop(size), picture[None], [word, 1])[0].astype(int)
        error = np.abs(truth - out)[:, 1:-1, 1:-1].max(axis=(1, 2, 3))
        assert error.min() <= 2
        found.add(int(error.argmin()))
    assert len(found) > 30 or len(found) > len(boxes) // 3


def test_the_leading_transforms_show_what_all_of_them_in_turn_would():
    """What the decoding worker does in one go is what the graph would do step by step."""
    video = clip(40, 52)
    flips = [transforms.flip(0.5), transforms.flip(0.5)]
    for crop in (t for t in ALL if getattr(t, "size", None)):
        lead = crops.leading([crop, *flips])
        for word in range(4):
            seed = np.array([word, 2**32 - 5], np.uint32)
            truth = transforms.apply([crop, *flips], {"video": tensorflow().constant(video)}, seed)["video"]
            view = lead(40, 52, Wanted(0, 0, tuple(seed.tolist())))
            np.testing.assert_array_equal(shown(video, view), truth)


def test_what_leads_is_a_crop_and_its_flips():
    crop, flip = transforms.resize(8), transforms.flip()
    assert crops.leading([crop, flip, flip, crop]).parts == (crop, flip, flip)
    paint = rand_augment()
    assert crops.leading([paint, crop, flip, paint, crop]).parts == (paint, crop, flip, paint)
    assert crops.leading([crop, paint, flip]).parts == (crop, paint)  # a flip after it would come too early
    assert crops.leading([paint]) is crops.leading([flip, crop]) is None
    assert crops.leading([lambda features, seed: features, crop]) is None
    assert crops.leading([]) is None


def test_center_crop_is_the_middle():
    video = clip(40, 60)
    np.testing.assert_array_equal(run(transforms.center_crop(40), video, [0, 0]), video[:, :, 10:50])
    tall = clip(60, 40)
    np.testing.assert_array_equal(run(transforms.center_crop(40), tall, [0, 0]), tall[:, 10:50])
    assert run(transforms.center_crop(20, short_side=24), tall, [0, 0]).shape == (3, 20, 20, 3)


def test_random_resized_crop_stays_within_its_bounds():
    """On a picture of coordinates the crop can be read off the result."""
    size, side = 8, 200
    rows, columns = np.mgrid[:side, :side]
    picture = np.stack([rows, columns, rows], -1).astype(np.uint8)[None]
    shares, ratios = [], []
    for word in range(80):
        out = run(transforms.random_resized_crop(size, area=(0.2, 0.9)), picture, [word, 3])[0].astype(float)
        height = (out[-1, 0, 0] - out[0, 0, 0]) * size / (size - 1)
        width = (out[0, -1, 1] - out[0, 0, 1]) * size / (size - 1)
        shares.append(height * width / side**2)
        ratios.append(width / height)
    assert 0.17 < min(shares) < 0.35
    assert 0.7 < max(shares) < 0.95
    assert 0.7 < min(ratios) < 0.9
    assert 1.1 < max(ratios) < 1.4


def test_random_resized_crop_of_a_strip_falls_back_to_the_middle():
    out = run(transforms.random_resized_crop(8, area=(1.0, 1.0)), clip(10, 200), [1, 1])
    assert out.shape == (3, 8, 8, 3)


def test_flip_mirrors_with_its_probability():
    video = clip()
    flipped = 0
    for word in range(200):
        out = run(transforms.flip(0.3), video, [word, 9])
        assert np.array_equal(out, video) or np.array_equal(out, video[:, :, ::-1])
        flipped += not np.array_equal(out, video)
    assert 35 < flipped < 85
    np.testing.assert_array_equal(run(transforms.flip(0.0), video, [1, 1]), video)
    np.testing.assert_array_equal(run(transforms.flip(1.0), video, [1, 1]), video[:, :, ::-1])


def test_transforms_in_a_row_have_streams_of_their_own():
    video = clip()
    twice = [transforms.flip(0.5), transforms.flip(0.5)]
    results = set()
    for word in range(40):
        out = transforms.apply(twice, {"video": tensorflow().constant(video)}, np.array([word, 0], np.uint32))
        results.add(np.array_equal(out["video"].numpy(), video))
    assert results == {True, False}


def test_the_last_resolution_counts():
    assert transforms.output_size([transforms.resize(10), transforms.center_crop(8), transforms.flip()]) == 8
    assert transforms.output_size([transforms.flip()]) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: transforms.multi_scale_crop(0), r"size=0"),
        (lambda: transforms.multi_scale_crop(8, scales=[1.5]), r"scales=\[1\.5\]"),
        (lambda: transforms.random_resized_crop(8, area=[0.5, 0.1]), r"area=\[0\.5, 0\.1\]"),
        (lambda: transforms.random_resized_crop(8, ratio=[2.0, 0.5]), r"ratio=\[2\.0, 0\.5\]"),
        (lambda: transforms.center_crop(8, short_side=4), r"short_side=4 .*size=8"),
        (lambda: transforms.view_crop(8, crops=0), r"crops=0"),
        (lambda: transforms.flip(1.5), r"probability=1\.5"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
