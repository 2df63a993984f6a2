"""Frames as a player shows them: square pixels, upright, one field, one size."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from numbered_videos import changing_size, numbered_frames, write_video

from vmae_jax.data import crops, transforms
from vmae_jax.data.decode import Wanted, open_encoded, probe, read_clips, read_frames
from vmae_jax.data.display import Display, square
from vmae_jax.data.video import Encoded


def disc(height, width, *, across=1.0):
    """One frame of a disc whose pixels are `across` times as wide as high: an ellipse as it is stored."""
    rows, columns = np.mgrid[:height, :width]
    inside = (rows - height / 2) ** 2 + ((columns - width / 2) * across) ** 2 < (height / 4) ** 2
    return np.where(inside[None, ..., None], 240, 20).repeat(3, -1).astype(np.uint8).repeat(2, 0)


def extent(picture):
    """Rows and columns that something bright covers."""
    bright = picture[..., 0] > 128
    return int(bright.any(1).sum()), int(bright.any(0).sum())


@pytest.mark.parametrize(
    ("aspect", "shown"), [(Fraction(4, 3), (427, 240)), (Fraction(8, 9), (320, 270)), (Fraction(1), (320, 240))]
)
def test_square_pixels(aspect, shown):
    assert square(320, 240, aspect) == shown


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("matroska", "libx264"), ("avi", "mpeg4")])
def test_a_disc_stored_with_wide_pixels_is_round(container, codec):
    aspect = Fraction(4, 3)
    data = write_video(disc(120, 160, across=4 / 3), container=container, codec=codec, aspect=aspect)
    info = probe(Encoded(data=data))
    assert (info.width, info.height, info.pixel_aspect) == (213, 120, aspect)
    (frame,) = read_frames(Encoded(data=data), [0])
    assert frame.shape == (120, 213, 3)
    assert extent(frame) == pytest.approx((60, 60), abs=2)


@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(3, 4)])
def test_turned_wide_pixels(aspect):
    """Pixels are made square before the picture is turned."""
    data = write_video(disc(120, 160, across=float(aspect)), rotation=90, aspect=aspect)
    (frame,) = read_frames(Encoded(data=data), [0])
    assert frame.shape == ((213, 120, 3) if aspect > 1 else (160, 160, 3))
    rows, columns = extent(frame)
    assert rows == pytest.approx(columns, abs=2)


def test_crops_are_of_the_picture_that_is_shown():
    data = write_video(disc(120, 160, across=4 / 3), aspect=Fraction(4, 3))
    sampler = lambda info, seed: np.array([[0, 1]])  # noqa: E731
    crop = crops.leading([transforms.resize(64)])
    clip = read_clips(Encoded(data=data), sampler, np.zeros(2), [Wanted(0, 0, (0, 0))], crop=crop).arrays["video"][0, 0]
    rows, columns = extent(clip)
    assert columns / rows == pytest.approx(120 / 213, abs=0.05)  # the whole picture, 213x120, in a square


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("matroska", "mpeg2video")])
def test_of_two_fields_one_is_shown(container, codec):
    """A bright block is at another place in each field: a comb, unless one field alone is shown."""
    frames = np.full((4, 64, 96, 3), 20, np.uint8)
    frames[:, 16:48:2, 16:40] = 235  # upper field
    frames[:, 17:48:2, 48:72] = 235  # lower field
    data = write_video(frames, container=container, codec=codec, interlaced=True)
    with av.open(io.BytesIO(data)) as stored:
        frame = next(stored.decode(video=0))
        assert frame.interlaced_frame
        comb = frame.to_ndarray(format="gray").astype(int)
    assert np.abs(np.diff(comb[20:44, 28])).mean() > 100
    for wanted in ([0], [2, 3]):
        picture = read_frames(Encoded(data=data), wanted)[-1].astype(int)
        assert picture.shape == (64, 96, 3)
        assert picture[20:44, 20:36].min() > 180
        assert picture[20:44, 52:68].max() < 60


def test_a_progressive_frame_keeps_every_line():
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    frames[:, ::2] = 200
    picture = read_frames(Encoded(data=write_video(frames)), [0])[0].astype(int)
    assert np.abs(np.diff(picture[:, 16, 0])).min() > 100


def test_fields_in_any_pixel_format():
    display = Display()
    for pixels in ("yuv420p", "yuv422p", "yuv444p", "nv12", "yuv420p10le"):
        frame = av.VideoFrame.from_ndarray(numbered_frames(1, size=48)[0], format="rgb24").reformat(format=pixels)
        field = display._field(frame)
        assert (field.width, field.height, field.format.name) == (48, 24, pixels)


SIZES = ((64, 64), (96, 64), (48, 80))


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mpegts", "libx264"), ("webm", "libvpx-vp9"), ("matroska", "mpeg4"), ("mpegts", "mpeg2video")],
)
def test_a_video_that_changes_its_size_is_read_at_the_first(container, codec):
    data = changing_size(SIZES, 10, container=container, codec=codec)
    encoded = Encoded(data=data)
    info = probe(encoded)
    assert (info.num_frames, info.width, info.height) == (30, 64, 64)
    every = read_frames(encoded, range(30))
    assert every.shape == (30, 64, 64, 3)
    bright = every[:, 32, 16, 0].astype(int)
    np.testing.assert_allclose(bright, 4 + 5 * np.arange(30), atol=12)
    np.testing.assert_array_equal(read_frames(encoded, [12, 25]), every[[12, 25]])
    reader = open_encoded(encoded)
    assert {(frame.width, frame.height) for _, frame in reader.frames()} == set(SIZES)
    reader.close()
