"""Motion vectors that the codec stored: of a square that moves, wherever the picture is cropped and flipped."""

import numpy as np
import pytest
from numbered_videos import write_video

from vmae_jax.data import crops, transforms
from vmae_jax.data.decode import Wanted, read_clips
from vmae_jax.data.streams.core import ClipShape, Streams
from vmae_jax.data.streams.motion import motion
from vmae_jax.data.video import Encoded
from vmae_jax.spec import ConfigError

SIZE = 64
SPEED = (4, 2)  # pixels a frame to the right and down


def moving(count=12, size=128):
    """Noise that moves over noise that does not."""
    random = np.random.default_rng(0)
    ground = np.repeat(random.integers(90, 110, (size, size, 1)), 3, -1).astype(np.uint8)
    patch = np.repeat(random.integers(0, 256, (8, 8, 1)).repeat(4, 0).repeat(4, 1), 3, -1).astype(np.uint8)
    frames = np.repeat(ground[None], count, 0)
    for number, frame in enumerate(frames):
        top, left = 16 + SPEED[1] * number, 16 + SPEED[0] * number
        frame[top : top + 32, left : left + 32] = patch
    return frames


def read(data, indices, chain, clips=None, cell=4):
    sampler = lambda info, seed: np.asarray(indices)  # noqa: E731
    streams = Streams({"m": motion(cell)}, ClipShape(len(indices[0]), SIZE, 3))
    encoded = Encoded(data=data)
    return read_clips(encoded, sampler, np.zeros(2), clips, crop=crops.leading(chain), streams=streams).arrays


@pytest.fixture(scope="module")
def video():
    return write_video(moving(), codec="mpeg4", group=100)  # every frame is predicted from the one before


def on_square(arrays, row, slot):
    """The median vector where the picture shows the square, found by its contrast."""
    picture = arrays["video"][row, slot, ..., 0].astype(float).reshape(16, 4, 16, 4)
    square = picture.std((1, 3)) > 15
    assert square.sum() >= 4
    return np.median(arrays["m"][row, slot][square], 0), np.median(arrays["m"][row, slot][~square], 0)


def test_vectors_follow_the_square_and_scale_with_the_crop(video):
    found = read(video, [[0, 3, 7]], [transforms.resize(SIZE)])
    assert found["m"].shape == (1, 3, 16, 16, 2)
    assert found["m_mask"].tolist() == [[False, True, True]], "the key frame has none"
    assert not found["m"][0, 0].any()
    for slot in (1, 2):
        square, ground = on_square(found, 0, slot)
        np.testing.assert_allclose(square, np.array(SPEED) / 2, atol=0.3)  # 128 pixels are shown as 64
        np.testing.assert_allclose(ground, 0, atol=0.1)


def test_a_flip_mirrors_the_field(video):
    clips = [Wanted(0, repeat, (repeat, 5)) for repeat in range(8)]
    found = read(video, [[5]], [transforms.resize(SIZE), transforms.flip()], clips)
    ways = {round(float(on_square(found, row, 0)[0][0])) for row in range(8)}
    assert ways == {2, -2}
    plain = read(video, [[5]], [transforms.resize(SIZE)])["m"][0, 0]
    mirrored = next(field for field in found["m"][:, 0] if not np.array_equal(field, plain))
    np.testing.assert_array_equal(mirrored, plain[:, ::-1] * [-1, 1])


@pytest.mark.parametrize(("rotation", "speed"), [(90, (2, -4)), (180, (-4, -2)), (-90, (-2, 4))])
def test_vectors_turn_with_the_picture(rotation, speed):
    data = write_video(moving(), codec="mpeg4", group=100, rotation=rotation)
    found = read(data, [[4]], [transforms.resize(SIZE)])
    square, _ = on_square(found, 0, 0)
    np.testing.assert_allclose(square, np.array(speed) / 2, atol=0.3)


def test_pictures_are_the_same_with_and_without_motion(video):
    indices = [[0, 3, 7], [2, 4, 6]]
    sampler = lambda info, seed: np.asarray(indices)  # noqa: E731
    crop = crops.leading([transforms.resize(SIZE)])
    plain = read_clips(Encoded(data=video), sampler, np.zeros(2), crop=crop).arrays["video"]
    np.testing.assert_array_equal(read(video, indices, [transforms.resize(SIZE)])["video"], plain)


def test_b_frames_move_forward_too():
    found = read(write_video(moving(), codec="libx264", group=100), [[4, 5, 6, 7]], [transforms.resize(SIZE)])
    assert found["m_valid"].all()
    across = [on_square(found, 0, slot)[0][0] for slot in range(4) if found["m_mask"][0, slot]]
    assert min(across) > 0


def test_codecs_without_vectors_and_pictures_are_not_valid():
    data = write_video(moving(), codec="libvpx-vp9", container="matroska")
    found = read(data, [[3]], [transforms.resize(SIZE)])
    assert not found["m_valid"].any()
    assert not found["m"].any()


def test_a_cell_that_does_not_divide_the_clip_is_refused():
    from vmae_jax.spec import build, call

    config = call(
        "data.pipeline.loader",
        source=call("data.sources.folder", path="/nowhere"),
        sampler=call("data.clips.dense"),
        transforms=[call("data.transforms.resize", size=60)],
        streams={"motion": call("data.streams.motion", cell=8)},
    )
    with pytest.raises(ConfigError, match="cell=8 does not divide"):
        build(config, "loader")
