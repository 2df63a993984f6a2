"""Two views of a video: their frames, the crop that they share, and the rows that they come in."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vmae_jax.data import clips, crops, sources, transforms
from vmae_jax.data.decode import Wanted
from vmae_jax.data.opened import open_loader
from vmae_jax.data.pipeline import loader
from vmae_jax.data.scaling import View
from vmae_jax.data.streams import times
from vmae_jax.data.streams.core import Clip, ClipShape
from vmae_jax.data.streams.geometry import scale_of, shown_boxes, source_corners, source_places
from vmae_jax.data.streams.place import place
from vmae_jax.data.video import VideoInfo
from vmae_jax.spec import ConfigError


def info(count, rate=25.0, seconds=None):
    shown = np.arange(count) / rate if seconds is None else np.asarray(seconds)
    return VideoInfo(count, rate, shown, 32, 32)


def seed(word):
    return np.array([word, 3], np.uint32)


def test_the_gap_is_drawn_evenly_from_least_to_most():
    gaps = [np.diff(clips.pair(1, gap=(4, 8))(info(100), seed(word))[:, 0])[0] for word in range(400)]
    assert set(gaps) == {4, 5, 6, 7, 8}
    assert min(np.bincount(gaps)[4:]) > 400 / 5 / 2
    firsts = {int(clips.pair(1, gap=(4, 4))(info(20), seed(word))[0, 0]) for word in range(300)}
    assert firsts == set(range(16)), "every start that leaves room"


def test_the_gap_of_a_short_video_is_drawn_evenly_from_what_fits():
    """SiamMAE's rule: from [min(4, F - 1), min(48, F)), and the first frame from 0 … F - gap - 1."""
    for count in (1, 2, 4, 20, 48, 90):
        starts = np.stack([clips.pair(1)(info(count), seed(word))[:, 0] for word in range(3000)])
        gaps = starts[:, 1] - starts[:, 0]
        allowed = range(min(4, count - 1), min(48, count))
        assert set(gaps) == set(allowed), count
        assert np.bincount(gaps)[allowed.start :].max() < 2 * 3000 / len(allowed), count
        for gap in (allowed.start, allowed.stop - 1):
            assert set(starts[gaps == gap, 0]) <= set(range(count - gap)), count
    first = {int(clips.pair(1)(info(6), seed(word))[0, 0]) for word in range(200)}
    assert first == {0, 1}


def test_two_speeds_from_one_start():
    slow, fast = clips.pair(4, strides=(1, 3), gap=(0, 0))(info(50), seed(1))
    assert (np.diff(slow) == 1).all()
    assert (np.diff(fast) == 3).all()
    assert slow[0] == fast[0]
    assert fast[-1] < 50


def test_several_clips_start_independently_anywhere_they_fit():
    shown = np.stack([clips.several(4, stride=3, views=3)(info(14), seed(word)) for word in range(300)])
    assert (np.diff(shown) == 3).all()
    assert shown[:, :, 0].min() == 0
    assert shown[:, :, -1].max() == 13
    starts = np.bincount((shown[:, 0, 0] * 5 + shown[:, 1, 0]).ravel(), minlength=25)
    assert starts.min() > 300 / 25 / 4, "every pair of starts, of two clips"
    np.testing.assert_array_equal(clips.several(4, stride=3)(info(2), seed(0)), [[0, 1, 1, 1]] * 2)


def test_the_whole_video_comes_before_its_parts():
    whole, *parts = clips.whole_and_parts(4, stride=2, parts=2)(info(20), seed(1))
    np.testing.assert_array_equal(whole, [2, 7, 12, 17])
    assert (np.diff(parts) == 2).all()
    np.testing.assert_array_equal(parts, clips.several(4, stride=2)(info(20), seed(1)))
    np.testing.assert_array_equal(clips.whole_and_parts(4)(info(2), seed(1))[0], [0, 0, 1, 1])


def test_a_gap_in_seconds_follows_the_time_stamps():
    uneven = [0, 0.1, 0.2, 0.3, 0.4, 2.0, 4.0, 6.0, 8.0, 10.0]
    for word in range(50):
        first, second = clips.pair(1, gap=(2.0, 2.0), unit="seconds")(info(10, seconds=uneven), seed(word))[:, 0]
        shown = uneven[second] - uneven[first]
        assert shown >= 2.0 - 1e-6
        assert uneven[second - 1] - uneven[first] < 2.0, "the first frame that is late enough"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_video_that_is_too_short_has_a_smaller_gap(count):
    for word in range(20):
        pair = clips.pair(3, strides=(2, 2), gap=(4, 48))(info(count), seed(word))
        assert pair.shape == (2, 3)
        assert 0 <= pair.min() <= pair.max() < count


@pytest.mark.parametrize("wrong", [{"gap": (5, 4)}, {"unit": "minutes"}, {"strides": (1,)}, {"frames": 0}])
def test_what_is_no_pair_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        clips.pair(**wrong)


def views(transform, repeat=0):
    crop = crops.leading([transform])
    base = (9, repeat)
    return [crop(120, 200, Wanted(view, repeat, (5 + view, repeat), base)) for view in range(2)]


def test_views_share_a_crop_and_its_flip_only_together():
    apart = views(transforms.random_resized_crop(32))
    assert apart[0] != apart[1]
    chain = crops.together([transforms.random_resized_crop(32), transforms.flip()])
    flipped = set()
    for repeat in range(12):
        first, second = views(chain, repeat)
        assert first == second
        flipped.add(first.mirrored)
    assert flipped == {True, False}
    with pytest.raises(ValueError, match="a crop"):
        crops.together([transforms.flip()])


def test_the_second_crop_is_within_the_first():
    """It is a crop of the 32 x 32 pixels that the first one shows."""
    for repeat in range(30):
        outer, inner = views(crops.nested(32), repeat)
        assert (outer.inside, inner.inside) == (None, outer)
        assert 0 <= inner.top <= inner.top + inner.height <= 32
        assert 0 <= inner.left <= inner.left + inner.width <= 32
        assert 0.2 < inner.height * inner.width / 32**2 < 0.65
        assert 0.45 < outer.height * outer.width / (120 * 200) <= 1


def test_what_is_beside_a_clip_follows_a_crop_within_a_crop():
    """The centre of each shown pixel is where the two crops have it, and a box there comes back to it."""
    outer, inner = views(crops.nested(32), 3)
    inner = inner._replace(mirrored=True)
    clip = Clip(np.array([0]), np.array([0.0]), (0.0, 0.04), (120, 200), inner, (0, 0))
    y, x = source_places(clip, 32, 32)
    row, column = 5, 7
    across = inner.left + (32 - column - 0.5) * inner.width / 32
    down = inner.top + (row + 0.5) * inner.height / 32
    assert x[column] * 200 == pytest.approx(outer.left + across * outer.width / 32)
    assert y[row] * 120 == pytest.approx(outer.top + down * outer.height / 32)
    one = 0.2 / 200
    shown, left = shown_boxes(clip, np.array([[x[column] - one, y[row] - one, x[column] + one, y[row] + one]]))
    assert left[0] == pytest.approx(1)
    assert (shown[0, 0] + shown[0, 2]) / 2 == pytest.approx((column + 0.5) / 32)
    assert (shown[0, 1] + shown[0, 3]) / 2 == pytest.approx((row + 0.5) / 32)
    assert shown[0, 2] - shown[0, 0] == pytest.approx(0.4 * scale_of(inner)[0] / 32)
    x0, y0, x1, y1 = source_corners(clip)  # mirrored: its left edge is on the right
    assert x0 > x1
    assert [x0 + (x1 - x0) * (column + 0.5) / 32, y0 + (y1 - y0) * (row + 0.5) / 32] == pytest.approx(
        [x[column], y[row]]
    )


def test_where_a_clip_is():
    """A mirrored crop; frames last until the next one begins, and repeated ones no time at all."""
    view = View(10, 40, 60, 80, 32, 32, mirrored=True)
    clip = Clip(np.array([3, 5, 5]), np.array([0.12, 0.2, 0.2]), (0.12, 0.28), (100, 200), view, (0, 0))
    stream = place()
    fields = stream.fields(ClipShape(3, 32, 3))
    out = {suffix: np.zeros((1, *one.shape), one.dtype) for suffix, one in fields.items()}
    recording: Any = SimpleNamespace(info=SimpleNamespace(start=1.0))
    assert stream.read(recording, [clip], out) == [True]
    np.testing.assert_allclose(out[""], [[0.6, 0.1, 0.2, 0.7]], rtol=1e-6)
    np.testing.assert_allclose(out["_times"], [[[1.12, 1.2], [1.2, 1.2], [1.2, 1.28]]], rtol=1e-6)


def test_frames_of_different_times_are_not_taken_of_images(tmp_path):
    crop = [crops.together([transforms.random_resized_crop(16)])]
    with pytest.raises(ConfigError, match=r"the source has images: .*gap=\[0, 0\]"):
        loader(sources.images(str(tmp_path)), clips.pair(), crop)
    assert loader(sources.images(str(tmp_path)), clips.pair(gap=(0, 0)), crop).views == 2


@pytest.mark.parametrize("gap", [(0, 0), (3, 6)])
def test_pairs_come_in_consecutive_rows(video_folder, gap):
    made = loader(
        sources.folder(str(video_folder)),
        clips.pair(2, gap=gap),
        [crops.together([transforms.random_resized_crop(16), transforms.flip()])],
        global_batch=2,
        repeat=2,
        workers=2,
        streams={"frames": times.frames()},
    )
    with open_loader(made).batches(rows=range(8), seed=0) as batches:
        for batch in (next(batches) for _ in range(3)):
            pairs = batch["frames"].reshape(4, 2, 2)
            gaps = pairs[:, 1, 0] - pairs[:, 0, 0]
            assert ((gaps >= gap[0]) & (gaps <= gap[1])).all()
            np.testing.assert_array_equal(batch["index"][::2], batch["index"][1::2])
            assert len(np.unique(batch["seed"], axis=0)) == 8
            if gap == (0, 0):  # the same frames, so the same pixels if crop and flip are the same
                np.testing.assert_array_equal(batch["video"][::2], batch["video"][1::2])
                assert not np.array_equal(batch["video"][0], batch["video"][2])


def test_what_views_share_must_be_done_while_decoding(video_folder):
    late = [transforms.resize(20), crops.nested(16)]
    with pytest.raises(ConfigError, match="Nested is carried out while decoding, so it must come first"):
        loader(sources.folder(str(video_folder)), clips.pair(1), late)
