"""Text, sensors, boxes, embeddings and planes: from files beside a video to the clip that they belong to."""

import io
import zipfile

import numpy as np
import pytest
from numbered_videos import numbered_frames, write_video
from PIL import Image

from vmae_jax.data import crops, transforms
from vmae_jax.data.decode import Wanted, read_clips
from vmae_jax.data.streams import tables
from vmae_jax.data.streams.boxes import boxes
from vmae_jax.data.streams.core import ClipShape, Streams
from vmae_jax.data.streams.embeddings import embeddings
from vmae_jax.data.streams.planes import planes
from vmae_jax.data.streams.series import series
from vmae_jax.data.streams.text import cues, text
from vmae_jax.data.streams.tokenizers import utf8
from vmae_jax.data.video import BadVideo, Encoded, Side

SIZE = 32


@pytest.fixture(scope="module")
def video():
    return write_video(numbered_frames(50, size=40), container="mp4")  # 25 frames a second, 2 seconds


def read(video, stream, side, indices=((0, 2, 4, 6),), clips=None, chain=None):
    """Arrays of one stream by suffix, and the pictures."""
    sampler = lambda info, seed: np.asarray(indices)  # noqa: E731
    sides = {} if side is None else {"x": side if isinstance(side, Side) else Side(data=side)}
    crop = crops.leading(chain or [transforms.resize(SIZE)])
    streams = Streams({"x": stream}, ClipShape(len(indices[0]), SIZE, 3))
    found = read_clips(Encoded(data=video, sides=sides), sampler, np.zeros(2), clips, crop=crop, streams=streams).arrays
    return {name.removeprefix("x"): array for name, array in found.items()}


def csv_of(header, rows):
    return "\n".join([",".join(header), *(",".join(str(value) for value in row) for row in rows)]).encode()


def npz_of(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def decoded(tokens, mask):
    return bytes(int(token) - 3 for token in tokens[mask] if token >= 3).decode()


STREAMS = {
    "text": text(utf8(), 20),
    "series": series(["a"], 5),
    "boxes": boxes(2),
    "embeddings": embeddings(3, 4),
    "planes": planes(1),
}


@pytest.mark.parametrize("name", STREAMS)
def test_what_is_not_there_is_not_valid(video, name):
    for side in (None, Side(path="/nowhere/file")):
        found = read(video, STREAMS[name], side)
        assert not found["_valid"].any()
        assert not found[""].any()


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00\xd8", b"PK\x03\x04 no archive", b"\x93NUMPY\x01\x00\xff\xff{", b"a,b\n1,x\n\x00"]
)
def test_what_is_no_such_file_is_a_broken_one(video, name, content):
    if name == "text" and not content.startswith(b"\xff"):
        content = b"\xc3\x28"  # the others are text
    with pytest.raises(BadVideo, match="x: "):
        read(video, STREAMS[name], content)


def test_what_a_file_holds_is_quoted_printable(video):
    """The finding goes into the quarantine, the report and a terminal."""
    with pytest.raises(BadVideo) as found:
        read(video, STREAMS["boxes"], b"x0,\x1b[2J\xe9\n1,2\n")
    assert str(found.value) == r"x: has no column 'y0', only x0, \x1b[2J\xe9"


def test_a_caption_is_drawn_for_each_clip(video):
    stream = text(utf8(lowercase=True), 12)
    clips = [Wanted(0, repeat, (repeat, 1)) for repeat in range(20)]
    found = read(video, stream, "A dog.\n\nZwölf Katzen\n".encode(), clips=clips)
    drawn = {decoded(*row) for row in zip(found[""], found["_mask"], strict=True)}
    assert drawn == {"a dog.", "zwölf kat"}
    long = found[""][np.argmax(found["_mask"].all(1))]
    assert (long[0], long[-1]) == (1, 2), "begin and end, also of a text that is cut off"
    first = read(video, text(utf8(), 12, random=False), b"one\ntwo", clips=clips)
    assert {decoded(*row) for row in zip(first[""], first["_mask"], strict=True)} == {"one"}


SRT = """1
00:00:00,100 --> 00:00:00,500
<i>Good</i> morning

2
00:00:00,900 --> 00:00:01,300 X1:0
{\\an8}and good
night

3
00:00:99,000 -->

not a cue
"""


def test_subtitles_follow_the_clip(video):
    assert cues(SRT) == [(0.1, 0.5, "Good morning"), (0.9, 1.3, "and good night")]
    assert cues("WEBVTT\n\n01:02.500 --> 1:00:03.000\nlate") == [(62.5, 3603.0, "late")]
    indices = [[0, 2], [14, 16], [10, 25], [40, 42]]  # 0 to .16, .56 to .72, .4 to 1.6, 1.6 to 1.76
    found = read(video, text(utf8(), 60), SRT.encode(), indices=indices)
    shown = [decoded(*row) for row in zip(found[""], found["_mask"], strict=True)]
    assert shown == ["Good morning", "", "Good morning and good night", ""]
    assert found["_valid"].tolist() == [True, False, True, False]
    late = read(video, text(utf8(), 60), Side(data=SRT.encode(), start=0.9), indices=indices)
    assert decoded(late[""][0], late["_mask"][0]) == "and good night"


@pytest.mark.parametrize("make", [csv_of, lambda header, rows: npz_of(**dict(zip(header, zip(*rows, strict=True))))])
def test_readings_are_interpolated_at_the_clip_s_time(video, make):
    rows = [(0.1 * step, step, -2.0 * step) for step in range(16)]  # up to 1.5 seconds, 10 a second
    side = make(["time", "up", "down"], rows)
    stream = series(["down", "up"], 4, rate=8.0, align="start")
    found = read(video, stream, side, indices=[[10, 12], [35, 37]])
    moments = np.array([[0.4], [1.4]]) + np.arange(4) / 8
    np.testing.assert_array_equal(found["_mask"], moments <= 1.5)
    truth = np.where(moments <= 1.5, 10 * moments, 0)
    np.testing.assert_allclose(found[""][..., 1], truth, atol=1e-5)
    np.testing.assert_allclose(found[""][..., 0], -2 * truth, atol=1e-5)
    spread = read(video, series(["up"], 3), side, indices=[[10, 15]])  # .4 to .8: its thirds' middles
    np.testing.assert_allclose(spread[""][0, :, 0], 10 * (0.4 + 0.4 * np.array([1, 3, 5]) / 6), atol=1e-5)
    nearest = read(video, series(["up"], 3, interpolation="nearest"), side, indices=[[10, 15]])
    np.testing.assert_array_equal(nearest[""][0, :, 0], [5, 6, 7])
    middle = read(video, series(["up"], 2, rate=10.0), side, indices=[[10, 15]])
    np.testing.assert_allclose(middle[""][0, :, 0], [5.5, 6.5], atol=1e-5)


def test_tables_of_other_numbers_are_refused(video):
    stream = series(["a"], 2)
    for side, message in [
        (b"time,b\n1,2", "no column 'a', only time, b"),
        (b"time,a\n1,nan", "not finite"),
        (b"time,a\n1", "no table of numbers"),
        (b"time,a\n2,1\n1,1", "do not ascend"),
        (npz_of(time=np.zeros(3), a=np.zeros(2)), "different lengths"),
        (npz_of(time=np.zeros(3)), "no array 'a'"),
        (npz_of(time=np.zeros(3), a=np.array([None, 1, 2])), "not of numbers"),
        (npz_of(time=np.zeros(3), a=np.array(["1", "2", "3"])), "not of numbers"),
    ]:
        with pytest.raises(BadVideo, match=message):
            read(video, stream, side)


def test_archives_that_unpack_to_more_than_is_allowed_are_refused(monkeypatch):
    monkeypatch.setattr(tables, "LIMIT", 1 << 16)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        content = io.BytesIO()
        np.save(content, np.zeros(1 << 16))
        archive.writestr("features.npy", content.getvalue())
    assert len(file.getvalue()) < 1 << 16
    with pytest.raises(BadVideo, match="more than"):
        tables.read_arrays(file.getvalue(), ["features"])
    with pytest.raises(BadVideo, match="more than 63 KiB"):
        Side(data=b"x" * (1 << 16)).read(63 << 10)


def test_a_header_that_announces_more_than_there_is_takes_no_memory():
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40, 1 << 20)})
    with pytest.raises(BadVideo, match=r"cut off|has the shape"):
        tables.read_arrays(content.getvalue() + b"12345678", ["features"])
    for array in (np.arange(6, dtype=np.int16).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3))):
        np.testing.assert_array_equal(tables.read_arrays(npz_of(a=array), ["a"])["a"], array)


def test_boxes_follow_crop_and_flip(video):
    """A box drawn into the picture and the box of the stream stay together."""
    bright = np.zeros((4, 48, 64, 3), np.uint8)
    bright[:, 12:30, 20:44] = 250
    drawn = write_video(bright, container="mp4")
    side = csv_of(["frame", "id", "x0", "y0", "x1", "y1"], [(n, 7, 20, 12, 44, 30) for n in range(4)])
    chain = [transforms.random_resized_crop(SIZE, area=(0.5, 1.0)), transforms.flip()]
    clips = [Wanted(0, repeat, (repeat, 5)) for repeat in range(12)]
    found = read(drawn, boxes(3, least=0.0), side, indices=[[0, 3]], clips=clips, chain=chain)
    assert found["_mask"].tolist() == [[[True, False, False]] * 2] * 12
    assert (found["_id"][:, :, 0] == 7).all()
    assert (found["_id"][:, :, 1:] == -1).all()
    for pictures, corners in zip(found["video"], found[""][:, :, 0], strict=True):
        for picture, (x0, y0, x1, y1) in zip(pictures, corners * SIZE, strict=True):
            rows, columns = np.nonzero(picture[..., 0] > 125)
            np.testing.assert_allclose([x0, y0], [columns.min(), rows.min()], atol=1.1)
            np.testing.assert_allclose([x1, y1], [columns.max() + 1, rows.max() + 1], atol=1.1)


def test_boxes_of_other_times_and_outside_the_crop_are_left_out(video):
    rows = [(0.0, 0, 0, 10, 10), (0.08, 0, 0, 10, 10), (0.09, 30, 30, 40, 40), (0.08, 30, 0, 40, 10)]
    side = csv_of(["time", "x0", "y0", "x1", "y1"], rows)
    found = read(video, boxes(4), side, indices=[[0, 1, 2, 10]])
    assert found["_mask"][0].sum(-1).tolist() == [1, 1, 2, 0], "frame 1 is 40 ms from either; frame 10 from none"
    view = transforms.View(0, 0, 20, 20, SIZE, SIZE)

    class TopLeft(transforms.Resize):
        def view(self, height, width, *, seed, repeat=0):
            return view

    cropped = read(video, boxes(4), side, indices=[[0, 2]], chain=[TopLeft(SIZE)])
    np.testing.assert_allclose(cropped[""][0, :, 0], [[0, 0, 0.5, 0.5]] * 2)
    assert cropped["_mask"][0].sum(-1).tolist() == [1, 1], "those at the right and the bottom are outside"
    with pytest.raises(BadVideo, match="neither"):
        read(video, boxes(), csv_of(["x0", "y0", "x1", "y1"], [(0, 0, 1, 1)]))


def test_embeddings_are_padded_and_know_their_time(video):
    vectors = np.arange(18, dtype=np.float16).reshape(6, 3)
    seconds = np.stack([np.arange(6) * 0.3, np.arange(6) * 0.3 + 0.25], 1)
    side = npz_of(features=vectors, seconds=seconds, frames=np.zeros(2))
    found = read(video, embeddings(3, 8), side)
    np.testing.assert_array_equal(found[""][0, :6], vectors)
    assert found["_mask"][0].tolist() == [True] * 6 + [False] * 2
    assert not found[""][0, 6:].any()
    runs = read(video, embeddings(3, 4), side, clips=[Wanted(0, 0, (word, 3)) for word in range(30)])
    starts = runs[""][:, 0, 0] / 3
    assert set(starts) == {0, 1, 2}
    np.testing.assert_allclose(runs["_seconds"][:, 0, 0], starts * 0.3, atol=1e-6)
    around = read(video, embeddings(3, 4, part="clip"), side, indices=[[10, 15], [48, 49]])  # .4 to .8, 1.92 to 2
    assert around["_valid"].tolist() == [True, False]
    np.testing.assert_array_equal(around[""][0, :, 0], [3, 6, 0, 0])
    with pytest.raises(BadVideo, match=r"not \[n 5\]"):
        read(video, embeddings(5, 4), side)


def zip_of(pictures):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, picture in pictures.items():
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "PNG")
            archive.writestr(name, content.getvalue())
    return file.getvalue()


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_planes_are_cropped_and_flipped_as_the_pictures(interpolation):
    """The video's own first channel as a plane: what is stored shows what the pictures show."""
    rows, columns = np.mgrid[:48, :64]
    ramp = np.stack([columns * 3 + rows, 255 - columns * 3, rows * 4], -1).astype(np.uint8)
    frames = np.repeat(ramp[None], 4, 0)
    side = zip_of({f"{number:06}.png": ramp for number in (0, 2)} | {"readme.png.txt": ramp})
    chain = [transforms.random_resized_crop(SIZE, area=(0.5, 1.0)), transforms.flip()]
    clips = [Wanted(0, repeat, (repeat, 5)) for repeat in range(8)]
    found = read(write_video(frames, container="mp4"), planes(3, interpolation), side, [[0, 1, 2]], clips, chain)
    assert found["_mask"].tolist() == [[True, False, True]] * 8
    assert not found[""][:, 1].any()
    off = np.abs(found[""][:, [0, 2]].astype(int) - found["video"][:, [0, 2]])
    assert off.mean() < 4, "within what the video's codec loses"


def test_a_flip_negates_signed_planes(video):
    flow = np.full((40, 40, 3), 128, np.uint8)
    flow[..., 0] = 148  # 20 to the right
    flow[..., 1] = 98
    clips = [Wanted(0, repeat, (repeat, 5)) for repeat in range(8)]
    found = read(
        video,
        planes(2, signed=True),
        zip_of({"0.png": flow}),
        [[0]],
        clips,
        [transforms.resize(SIZE), transforms.flip()],
    )
    across = found[""][:, 0, 5, 5, 0]
    assert set(across.tolist()) == {148, 108}
    assert (found[""][..., 1] == 98).all()
    left = found["video"][:, 0, 16, 4, 0].astype(int) > found["video"][:, 0, 16, -4, 0]  # the counting half is brighter
    assert len(set(zip(across.tolist(), left.tolist(), strict=True))) == 2


def test_pictures_that_are_none_are_refused(video):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("0.png", b"no picture")
    with pytest.raises(BadVideo, match="no PNG picture"):
        read(video, planes(1), file.getvalue())
    with pytest.raises(BadVideo, match="has not 3 channels"):
        read(video, planes(3), zip_of({"0.png": np.zeros((4, 4), np.uint8)}))
