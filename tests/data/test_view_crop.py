"""Test crops: evenly spread along the long side, one for each repeat of the loader."""

import numpy as np
import pytest

from vmae_jax.data.transforms import apply, center_crop, view_crop


def crop(video, number, **arguments):
    return np.asarray(apply([view_crop(**arguments)], {"video": video, "repeat": number}, (0, 0))["video"])


def test_three_crops_are_left_middle_and_right():
    video = np.broadcast_to(np.arange(21, dtype=np.uint8)[None, None, :, None], (2, 8, 21, 3))
    starts = [int(crop(video, number, size=8)[0, 0, 0, 0]) for number in range(3)]
    assert starts == [0, 6, 13]  # int(k * 13 / 2), as the official test
    tall = np.swapaxes(video, 1, 2)
    np.testing.assert_array_equal(crop(tall, 2, size=8), np.swapaxes(crop(video, 2, size=8), 1, 2))


def test_one_crop_is_the_middle_and_squares_have_only_one():
    video = np.random.default_rng(0).integers(0, 256, (2, 10, 14, 3)).astype(np.uint8)
    middle = np.asarray(apply([center_crop(10)], {"video": video}, (0, 0))["video"])
    np.testing.assert_array_equal(crop(video, 0, size=10, crops=1), middle)
    square = video[:, :, :10]
    for number in range(3):
        np.testing.assert_array_equal(crop(square, number, size=10), square)
    with pytest.raises(ValueError, match="crops"):
        view_crop(crops=0)
