"""Scaling: Pillow's antialiased bilinear, within stated bounds; windows and mirrors exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vmae_jax.data.scaling import View, shown, whole


def picture(height, width, channels=3, seed=0):
    """Smooth shapes, an edge, and some noise, as pictures have."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + i) + y / 17) + np.cos(y / (11 + i)) for i in range(channels)]
    out = 128 + 50 * np.stack(waves, -1) + np.random.default_rng(seed).normal(size=(height, width, channels)) * 4
    out[height // 3 : height // 2, width // 4 : width // 2] += 60
    return out.clip(0, 255).astype(np.uint8)


def pil(frame, rows, columns):
    planes = [np.asarray(Image.fromarray(plane).resize((columns, rows), Image.BILINEAR)) for plane in frame.T]
    return np.stack([p.astype(int) for p in planes], -1)


@pytest.mark.parametrize("shape", [(256, 340), (168, 192), (256, 256), (720, 1280), (100, 70), (1080, 1920)])
@pytest.mark.parametrize("side", [112, 224])
def test_it_is_pillows_bilinear(shape, side):
    """Two levels at most; at the outermost pixels, whose triangle Pillow cuts off and renormalises, twelve."""
    frame = picture(*shape)
    off = np.abs(
        shown(frame[None], View(0, 0, *shape, side, side))[0].astype(int) - pil(frame.swapaxes(0, 1), side, side)
    )
    assert off.mean() < 0.3
    assert off[1:-1, 1:-1].max() <= 2
    assert off.max() <= 12


@pytest.mark.parametrize(("interpolation", "name"), [("exact_bilinear", "BILINEAR"), ("bicubic", "BICUBIC")])
def test_pillow_itself_scales_where_it_has_to_be_exact(interpolation, name):
    frame = np.random.default_rng(0).integers(0, 256, (56, 70, 3), np.uint8)
    box = Image.fromarray(frame[3:50, 10:69]).resize((40, 32), Image.Resampling[name])
    view = View(3, 10, 47, 59, 32, 40, interpolation=interpolation)
    np.testing.assert_array_equal(shown(frame[None], view)[0], np.asarray(box))
    twice = View(2, 4, 20, 24, 16, 16, interpolation=interpolation, inside=view, mirrored=True)
    expected = box.crop((4, 2, 28, 22)).resize((16, 16), Image.Resampling[name])
    np.testing.assert_array_equal(shown(frame[None], twice)[0], np.asarray(expected)[:, ::-1])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_box_of_any_size_to_any_size(data):
    height, width = (data.draw(st.integers(1, 80)) for _ in range(2))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    tall, wide = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    rows, columns = (data.draw(st.integers(1, 60)) for _ in range(2))
    channels = data.draw(st.sampled_from([1, 3]))
    video = np.stack([picture(height, width, channels, seed) for seed in range(2)])
    out = shown(video, View(top, left, tall, wide, rows, columns))
    assert out.shape == (2, rows, columns, channels)
    box = video[:, top : top + tall, left : left + wide]
    assert int(out.min()) >= int(box.min()) - 1
    assert int(out.max()) <= int(box.max()) + 1
    np.testing.assert_array_equal(out, shown(box, View(0, 0, tall, wide, rows, columns)))
    if (tall, wide) == (rows, columns):
        np.testing.assert_array_equal(out, box)
    mirrored = shown(video, View(top, left, tall, wide, rows, columns, mirrored=True))
    np.testing.assert_array_equal(mirrored, out[:, :, ::-1])
    window = shown(video, View(top, left, tall, wide, rows, columns, (rows // 2, 0, rows - rows // 2, 1)))
    np.testing.assert_array_equal(window, out[:, rows // 2 :, :1])


def test_the_whole_is_the_picture():
    video = picture(20, 30)[None]
    np.testing.assert_array_equal(shown(video, whole(20, 30)), video)
    np.testing.assert_array_equal(shown(video, whole(20, 30, mirrored=True)), video[:, :, ::-1])
