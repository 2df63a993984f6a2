"""Frames by number: the right ones, from every container; strangers' files refused with a reason."""

import functools
import io

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_videos import copied_cut, every_frame, numbered_frames, swapped, swapped_stamps, write_video
from PIL import Image

from vmae_jax.data import crops, transforms
from vmae_jax.data.decode import Wanted, open_encoded, probe, read_clips, read_frames
from vmae_jax.data.encode import encode_h264
from vmae_jax.data.video import BadVideo, Encoded, Limits

KINDS = [
    ("mp4", "libx264"),
    ("mov", "libx264"),
    ("matroska", "libx264"),
    ("webm", "libvpx-vp9"),
    ("avi", "mpeg4"),
    ("mpegts", "libx264"),
    ("flv", "libx264"),
]


@pytest.mark.parametrize(("container", "codec"), KINDS)
@pytest.mark.parametrize("group", [5, 60])
def test_frames_by_number_equal_a_full_decode(container, codec, group):
    data = write_video(numbered_frames(40), container=container, codec=codec, group=group)
    truth = every_frame(data)
    encoded = Encoded(data=data)
    info = probe(encoded)
    assert info.num_frames == len(truth) == 40
    assert info.rate == pytest.approx(25, rel=0.02)
    np.testing.assert_allclose(info.times, np.arange(40) / 25, atol=0.002)
    for indices in ([0], [39], [17, 3, 17, 38], [22, 23, 24]):
        np.testing.assert_array_equal(read_frames(encoded, indices), truth[indices])


@functools.cache
def thirty():
    return Encoded(data=encode_h264(numbered_frames(30), quality=4))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 29), min_size=1, max_size=8))
def test_any_order_and_repeats(indices):
    frames = read_frames(thirty(), indices)
    left = frames[:, 8, 4].astype(int).mean(-1)
    assert np.abs(left - (4 + 5 * np.array(indices))).max() <= 4


def test_real_clips(clips):
    paths = sorted(clips.iterdir())
    assert len(paths) >= 2
    for path in paths:
        stored = every_frame(path.read_bytes())
        encoded = Encoded(path=str(path))
        info = probe(encoded)
        assert info.num_frames == len(stored)
        indices = [0, info.num_frames // 3, info.num_frames // 2, info.num_frames - 1]
        frames = read_frames(encoded, indices)
        with av.open(str(path)) as container:
            aspect = container.streams.video[0].sample_aspect_ratio or 1
            turns = next(container.decode(video=0)).rotation // 90
        upright = np.rot90(stored[indices], turns, axes=(1, 2))
        if aspect == 1:
            np.testing.assert_array_equal(frames, upright)
            continue
        size = (round(stored.shape[2] * aspect), stored.shape[1])  # of these clips pixels are wide, not high
        for frame, plain in zip(frames, upright, strict=True):
            truth = np.asarray(Image.fromarray(plain).resize(size, Image.Resampling.BICUBIC), int)
            assert frame.shape == truth.shape
            assert np.abs(frame - truth).mean() < 3


def test_the_clips_that_ship_are_what_they_state(clips):
    turned, wide = (probe(Encoded(path=str(clips / name))) for name in ("turned.mp4", "wide.avi"))
    assert (turned.codec, turned.num_frames, turned.pixel_aspect) == ("h264", 250, 1)
    assert read_frames(Encoded(path=str(clips / "turned.mp4")), [0]).shape == (1, 160, 120, 3)
    assert (wide.codec, wide.num_frames, wide.height, wide.width) == ("mpeg4", 77, 144, 192)


@pytest.mark.parametrize("start", [0.0, 0.9, 2.4, 3.3])
def test_a_cut_made_by_copying_counts_only_frames_that_are_shown(start):
    whole = write_video(numbered_frames(120), group=50)
    data = copied_cut(whole, start, 1.2)
    truth = every_frame(data)
    encoded = Encoded(data=data)
    assert probe(encoded).num_frames == len(truth)
    np.testing.assert_array_equal(read_frames(encoded, range(len(truth))), truth)
    np.testing.assert_array_equal(read_frames(encoded, [len(truth) - 1]), truth[-1:])


@pytest.mark.parametrize("container", ["matroska", "mp4", "mpegts", "flv"])
def test_a_stream_that_starts_late_is_whole(container):
    """Matroska writes the second in which a stream ends, and not how long it is."""
    data = write_video(numbered_frames(40), container=container, start=125)
    truth = every_frame(data)
    info = probe(Encoded(data=data))
    assert info.num_frames == len(truth) == 40
    np.testing.assert_allclose(info.times, np.arange(40) / 25, atol=0.002)
    np.testing.assert_array_equal(read_frames(Encoded(data=data), [0, 21, 39]), truth[[0, 21, 39]])


def test_a_stream_that_starts_late_and_is_cut_off():
    noise = np.random.default_rng(0).integers(0, 255, (80, 32, 32, 3), np.uint8)
    data = write_video(noise, container="matroska", start=125)
    with pytest.raises(BadVideo, match=r"is cut off: it ends after [67]\.\d of 8\.2 s"):
        probe(Encoded(data=data[: len(data) * 6 // 10]))


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_quarter_turns_are_honoured(rotation):
    frames = np.zeros((3, 32, 48, 3), np.uint8)
    frames[:, :16, :16] = 250  # upper left
    plain = read_frames(Encoded(data=write_video(frames)), [1])
    turned = read_frames(Encoded(data=write_video(frames, rotation=rotation)), [1])
    np.testing.assert_array_equal(turned, np.rot90(plain, rotation // 90, axes=(1, 2)))


def test_other_angles_are_refused():
    data = write_video(numbered_frames(3), rotation=30)
    with pytest.raises(BadVideo, match="rotated by") as caught:
        read_frames(Encoded(data=data), [0])
    assert caught.value.kind == "unsupported"


def test_grey():
    data = encode_h264(numbered_frames(4), quality=4)
    assert read_frames(Encoded(data=data), [1], channels=1).shape == (1, 32, 32, 1)


def test_clips_show_the_frames_of_their_views():
    data = encode_h264(numbered_frames(10), quality=4)
    sampler = lambda info, seed: np.array([[9, 2, 2], [2, 9, 5]])  # noqa: E731
    read = read_clips(Encoded(data=data), sampler, np.zeros(2))
    assert read.info.num_frames == 10
    assert read.arrays["video"].shape == (2, 3, 32, 32, 3)
    plain = read_frames(Encoded(data=data), range(10))
    np.testing.assert_array_equal(read.arrays["video"], plain[[[9, 2, 2], [2, 9, 5]]])
    one = read_clips(Encoded(data=data), sampler, np.zeros(2), [Wanted(1, 0, (0, 0))]).arrays["video"]
    np.testing.assert_array_equal(one, read.arrays["video"][1:])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("rotation", [None, 90])
def test_cropping_while_decoding_is_cropping_afterwards(channels, rotation):
    frames = np.random.default_rng(0).integers(0, 256, (6, 36, 48, 3)).astype(np.uint8)
    encoded = Encoded(data=write_video(frames, rotation=rotation))
    sampler = lambda info, seed: np.array([[0, 2, 5], [5, 1, 5]])  # noqa: E731
    parts = [transforms.multi_scale_crop(20), transforms.flip(), transforms.flip()]
    wanted = [Wanted(view, repeat, (seed, 7)) for seed, (view, repeat) in enumerate([(0, 0), (1, 0), (0, 1), (0, 1)])]
    wanted.append(wanted[0])  # the same part of the same frames
    read = read_clips(
        encoded, sampler, np.zeros(2), wanted, crop=crops.leading(parts), channels=channels
    )  # fmt: skip
    plain = read_clips(encoded, sampler, np.zeros(2), wanted, channels=channels)
    assert plain.arrays["video"].shape[2:] == ((48, 36) if rotation else (36, 48)) + (channels,)
    for clip, video, (_, repeat, seed, _) in zip(read.arrays["video"], plain.arrays["video"], wanted, strict=True):
        truth = transforms.apply(parts, {"video": video, "repeat": repeat}, np.array(seed, np.uint32))["video"]
        np.testing.assert_array_equal(clip, truth)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4", "libvpx-vp9", "libsvtav1", "mpeg2video"])
def test_skipping_what_nobody_asked_for_changes_no_pixel(codec):
    """Frames that nothing refers to are not decoded; those that are asked for are the same as ever."""
    frames = numbered_frames(60)
    data = write_video(frames, codec=codec, container="matroska", group=17)
    truth = every_frame(data)
    for indices in ([0], [59], [3, 4, 5], list(range(1, 60, 4)), [16, 17, 18], list(range(60))):
        np.testing.assert_array_equal(read_frames(Encoded(data=data), indices), truth[indices])


def faststart(data, tmp_path):
    """The same video with its index in front, so that a truncated file still opens."""
    path = tmp_path / "fast.mp4"
    with av.open(io.BytesIO(data)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    return path.read_bytes()


def read_all(data):
    encoded = Encoded(data=data)
    return read_frames(encoded, range(probe(encoded).num_frames))


@pytest.mark.parametrize("container", ["mp4", "fast", "matroska", "avi"])
@pytest.mark.parametrize("tenth", [0, 1, 3, 5, 8])
def test_truncated_files_have_a_reason(container, tenth, tmp_path):
    codec = "mpeg4" if container == "avi" else "libx264"
    noise = np.random.default_rng(0).integers(0, 255, (60, 32, 32, 3), np.uint8)
    data = write_video(noise, container="mp4" if container == "fast" else container, codec=codec)
    if container == "fast":
        data = faststart(data, tmp_path)
    with pytest.raises(BadVideo, match=r"cut off|no readable video|empty file|has no frame"):
        read_all(data[: len(data) * tenth // 10])


def test_frames_whose_time_stamps_are_out_of_order():
    """They are shown in the order of their stamps, whether the whole video is read or some of it."""
    data = swapped_stamps(write_video(numbered_frames(25), codec="mpeg4"))
    reader = open_encoded(Encoded(data=data))
    numbers = [number for number, _ in reader.frames()]
    reader.close()
    assert numbers == list(range(25))
    bright = read_frames(Encoded(data=data), range(25))[:, 8, 4, 0].astype(int)
    np.testing.assert_allclose(bright, [4 + 5 * swapped(number) for number in range(25)], atol=6)
    some = read_frames(Encoded(data=data), [4, 9, 10])[:, 8, 4, 0].astype(int)
    np.testing.assert_array_equal(some, bright[[4, 9, 10]])


def test_flipped_bits_either_decode_or_have_a_reason():
    random = np.random.default_rng(0)
    data = encode_h264(random.integers(0, 255, (30, 32, 32, 3), np.uint8))
    reasons = []
    for _ in range(40):
        broken = bytearray(data)
        broken[random.integers(len(data))] ^= 1 << int(random.integers(8))
        try:
            assert read_all(bytes(broken)).shape[1:] == (32, 32, 3)
        except BadVideo as error:
            reasons.append(str(error))
    assert reasons
    assert not any("\n" in reason for reason in reasons)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello\n" * 200,
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<?xml version='1.0'?><MPD></MPD>",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
)
def test_what_is_no_video_container_is_not_opened(data):
    with pytest.raises(BadVideo, match=r"no readable video|empty file"):
        probe(Encoded(data=data))


def test_pictures_and_sound_are_not_videos():
    file = io.BytesIO()
    Image.fromarray(numbered_frames(1)[0]).save(file, "PNG")
    with pytest.raises(BadVideo, match="is a PNG picture, which is not decoded") as caught:
        probe(Encoded(data=file.getvalue()))
    assert caught.value.kind == "unsupported"
    sound = io.BytesIO()
    with av.open(sound, mode="w", format="mp4") as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with pytest.raises(BadVideo, match="no video stream"):
        probe(Encoded(data=sound.getvalue()))


def test_a_name_is_never_a_url(tmp_path):
    for name in ("concat:/etc/passwd", "http://127.0.0.1:1/x.mp4", "pipe:0"):
        with pytest.raises(BadVideo, match="does not exist"):
            probe(Encoded(path=name))


def test_codecs_that_are_not_named_are_refused():
    data = write_video(numbered_frames(3), container="avi", codec="ffv1")
    with pytest.raises(BadVideo, match="is coded as ffv1, which is not decoded"):
        probe(Encoded(data=data))


def test_limits():
    encoded = Encoded(data=encode_h264(numbered_frames(30), rate=10))
    for limits, words in (
        (Limits(pixels=500), "pixels"),
        (Limits(seconds=1.0), "lasts"),
        (Limits(frames=10), "more than 10 frames"),
    ):
        with pytest.raises(BadVideo, match=words):
            probe(encoded, limits=limits)


def test_an_index_outside_the_video_is_the_callers_fault():
    encoded = Encoded(data=encode_h264(numbered_frames(5)))
    for index in (-1, 5):
        with pytest.raises(ValueError, match="of a video of 5"):
            read_frames(encoded, [index])


def test_a_folder_of_pictures(tmp_path):
    frames = numbered_frames(4)
    paths = []
    for number, frame in enumerate(frames):
        paths.append(str(tmp_path / f"img_{number:05}.png"))
        Image.fromarray(frame).save(paths[-1])
    encoded = Encoded(frames=tuple(paths), rate=12.0)
    assert probe(encoded).num_frames == 4
    np.testing.assert_array_equal(read_frames(encoded, [3, 0, 3]), frames[[3, 0, 3]])
    raw = Encoded(frames=tuple(open(path, "rb").read() for path in paths))  # noqa: SIM115
    np.testing.assert_array_equal(read_frames(raw, [2]), frames[[2]])
    with pytest.raises(BadVideo, match="frame 1 is missing"):
        read_frames(Encoded(frames=(paths[0], paths[0] + "x")), [1])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(BadVideo, match="picture"):
        read_frames(Encoded(frames=(str(tmp_path / "text.png"),)), [0])


def test_encoding_is_deterministic_and_faithful():
    frames = np.random.default_rng(0).integers(0, 255, (6, 4, 4, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    data = encode_h264(frames, quality=4)
    assert data == encode_h264(frames, quality=4)
    error = np.abs(read_frames(Encoded(data=data), range(6)).astype(int) - frames)
    assert error.mean() < 6
    with pytest.raises(ValueError, match="even"):
        encode_h264(frames[:, :31])
