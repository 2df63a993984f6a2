"""Masks of faces: counts, what is hidden first, the order of parts, and frames without a face."""

import itertools

import jax
import numpy as np
import pytest

from vmae_jax.masking.core import plan
from vmae_jax.masking.face_parts import PARTS, face_parts
from vmae_jax.types import Grid

GRID = Grid(8, 14, 14)
SIDE = 8  # pixels of a token


def faces(count=4, frames=16):
    """Segmentations [b t h w 1]: background above, skin below with squares of other classes, hair at the side."""
    plane = np.ones((14 * SIDE, 14 * SIDE), np.uint8)
    plane[:SIDE] = 0
    plane[:, 12 * SIDE :] = 10
    for number, one in enumerate((2, 3, 4, 5, 6, 7, 8, 9)):
        row, column = divmod(number, 4)
        plane[(3 + 4 * row) * SIDE :, (3 * column) * SIDE :][: 2 * SIDE, : 2 * SIDE] = one
    return np.broadcast_to(plane[..., None], (count, frames, *plane.shape, 1)).copy()


def seen(planes, ratio=0.9, grid=GRID, seed=0, **options):
    """[b t h w] bool: what the encoder sees."""
    keys = jax.random.split(jax.random.key(seed), len(planes))
    made = jax.jit(lambda keys, planes: plan(keys, {"parts": planes}, grid, face_parts(ratio, **options)))(keys, planes)
    assert made.visible.shape[1] == int(grid.size * (1 - ratio))
    out = np.zeros((len(planes), grid.size), bool)
    np.put_along_axis(out, np.asarray(made.visible), True, axis=1)
    return out.reshape(-1, grid.t, grid.h, grid.w)


def classes(planes, grid=GRID):
    """For each token the classes that it has a pixel of, in the first frame of its slot: [b t h w 11] bool."""
    b, frames, side = planes.shape[:3]
    first = planes[:, :: frames // grid.t, :, :, 0].reshape(b, grid.t, grid.h, side // grid.h, grid.w, side // grid.w)
    return np.stack([(first == one).any((3, 5)) for one in range(11)], -1)


def test_background_and_skin_are_seen_and_parts_are_not():
    """12 tokens of background are less than a tenth of 196, and with the skin it is enough."""
    planes = faces()
    visible, of = seen(planes), classes(planes)
    assert (visible.sum((1, 2, 3)) == 156).all()
    assert not visible[~(of[..., 0] | of[..., 1])].any()
    assert visible[of[..., 0]].any()
    assert len({int(one) for one in visible.sum((2, 3)).ravel()}) > 1  # slots have different numbers
    assert (seen(planes, seed=1) != visible).any()
    np.testing.assert_array_equal(seen(planes), visible)


def test_a_background_that_is_enough_is_seen_alone():
    planes = faces()
    planes[:, :, : 4 * SIDE] = 0
    visible, of = seen(planes), classes(planes)
    assert not visible[~of[..., 0]].any()


def shown(slots, groups, ratio):
    """Tokens of the fewest groups that suffice in each slot, one class after the other; `slots` is [t h w 11]."""
    out = np.zeros(slots.shape[:3], bool)
    for slot, token in zip(slots, out, strict=True):
        for group in groups:
            token |= slot[..., list(group)].any(-1)
            if token.mean() >= 1 - ratio:
                break
    return out


@pytest.mark.parametrize(("order", "ratio"), [("background_first", 0.2), ("parts_first", 0.85)])
def test_classes_become_visible_until_they_suffice_in_a_sequence_drawn_for_each_clip(order, ratio):
    """Independently: what is seen is among the tokens of one of the possible sequences, the same in all slots."""
    planes = faces()
    planes[:, 4:, :, : 6 * SIDE] = 6  # later slots need other classes than the first ones
    visible, of = seen(planes, ratio, order=order), classes(planes)
    fitting = []
    for clip, slots in zip(visible, of, strict=True):
        sequences = [((0,), (1,), *parts) for parts in itertools.permutations(PARTS)]
        sequences = sequences if order == "background_first" else [one[::-1] for one in sequences]
        fitting.append({one for one in sequences if not clip[~shown(slots, one, ratio)].any()})
    assert all(0 < len(one) < 120 for one in fitting)
    assert not set.intersection(*fitting)


def test_only_the_first_frame_of_a_slot_counts():
    planes, other = faces(), faces()
    other[:, 1::2] = 0
    np.testing.assert_array_equal(seen(other), seen(planes))
    other[:, 0] = 0
    assert (seen(other)[:, 0] != seen(planes)[:, 0]).any()


def test_clips_without_a_face_or_segmentation_have_a_random_mask():
    visible = seen(np.zeros((64, 16, 14 * SIDE, 14 * SIDE, 1), np.uint8))
    assert (visible.sum((1, 2, 3)) == 156).all()
    assert abs(visible.mean(0) - 156 / 1568).max() < 0.25  # no token is always or never seen
    assert visible.any(0).mean() > 0.99
    unknown = seen(np.full((2, 16, 14 * SIDE, 14 * SIDE, 1), 200, np.uint8))  # of no class of faces
    assert (unknown.sum((1, 2, 3)) == 156).all()


def test_border_tokens_belong_to_every_class_they_have_a_pixel_of():
    planes = faces(count=1)
    planes[:] = 6
    planes[:, :, :, SIDE * 3 + 1] = 0  # one column of pixels of background
    visible = seen(planes, ratio=0.95, grid=GRID)
    assert not visible[..., :3].any()
    assert not visible[..., 4:].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 1.0}, "mask ratio"),
        ({"order": "skin_first"}, "'background_first' or 'parts_first'"),
        ({"parts": ((1, 2),)}, "each in one part"),
        ({"parts": ((2,), (2,))}, "each in one part"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(ValueError, match=words):
        face_parts(**options)
    with pytest.raises(ValueError, match="planes of 16x112x112 do not divide into 8x13x13"):
        seen(faces(), grid=Grid(8, 13, 13))
