"""Files beside videos, tables and annotations that somebody broke or crafted: each is one finding, and in time."""

import errno
import os

import numpy as np
import pytest
from owners_files import place

from vmae_jax.data.catalog import Catalog
from vmae_jax.data.catalogs import hmdb51
from vmae_jax.data.listing import Listing
from vmae_jax.data.sides import sidecar, table
from vmae_jax.data.streams.core import ArraySpec, Clip, ClipShape, Stream, Streams
from vmae_jax.data.streams.tables import read_arrays
from vmae_jax.data.video import BadVideo, Encoded, Side, VideoInfo, open_regular
from vmae_jax.spec import ConfigError

INFO = VideoInfo(4, 25.0, np.arange(4) / 25, 8, 8)
CLIP = Clip(np.arange(4), np.arange(4) / 25, (0.0, 0.16), (8, 8), None, (0, 0))


def npy(header, content=b""):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': (((((",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 0)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1, " * 70 + ")}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
    ],
)
def test_a_crafted_header_of_an_array_is_a_finding(header):
    with pytest.raises(BadVideo, match="holds 'x'"):
        read_arrays(npy(header, bytes(4)), ["x"])


class Reading(Stream):
    """A stream whose `read` is replaced."""

    def __init__(self, act):
        self.act = act

    def fields(self, shape):
        return {"": ArraySpec((2,), np.float32)}

    def read(self, recording, clips, out):
        return self.act(out[""])


def read(act):
    arrays = {"x": np.empty((1, 2), np.float32), "x_valid": np.empty(1, bool)}
    Streams({"x": Reading(act)}, ClipShape(4, 8, 3)).read(Encoded(data=b"v"), INFO, [CLIP], arrays, None)
    return arrays


def raising(error):
    def act(out):
        raise error

    return act


@pytest.mark.parametrize("error", [OverflowError("inf"), IndexError("7"), TypeError("t"), ValueError("a\nb")])
def test_whatever_a_file_leads_a_stream_to_is_a_finding_of_the_video(error):
    with pytest.raises(BadVideo, match=r"^x: cannot be read \(") as found:
        read(raising(error))
    assert "\n" not in str(found.value)


def test_numbers_that_are_not_finite_are_no_stream():
    def act(out):
        with np.errstate(over="ignore"):
            out[:] = np.array([1.0, 1e300]).astype(np.float32)
        return [True]

    with pytest.raises(BadVideo, match="x: has numbers that are not finite"):
        read(act)


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(BadVideo, match="is no regular file"):
            open_regular(str(path))
        with pytest.raises(BadVideo, match="is no regular file"):
            Side(path=str(path)).read(10)
    with pytest.raises(IsADirectoryError) as found:
        open_regular(str(tmp_path))
    assert found.value.errno == errno.EISDIR
    with pytest.raises(ConfigError, match="is no regular file"):
        table("/dev/zero", "caption").open()
    (tmp_path / "file").write_bytes(b"abc")
    with open_regular(str(tmp_path / "file")) as file:
        assert file.read() == b"abc"


def test_half_of_a_surrogate_pair_in_a_caption_is_replaced(tmp_path):
    lines = ['{"path": "a", "caption": "x \\ud83d"}', '{"path": "b", "caption": "one\u2028two"}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = table(str(tmp_path / "t.jsonl"), "caption").open()
    assert rows.find(Encoded(data=b"v", key="a.mp4")).data == b"x ?"
    assert rows.find(Encoded(data=b"v", key="b.mp4")).data == b"one two"


@pytest.mark.parametrize("text", ["[" * 200_000, '{"path": "a", "caption": ' + "1" * 5000 + "}", '{"path": 1}'])
def test_a_crafted_table_is_one_line(tmp_path, text):
    (tmp_path / "t.jsonl").write_text(text + "\n")
    with pytest.raises(ConfigError) as found:
        table(str(tmp_path / "t.jsonl"), "caption").open()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "options", [{"start": float("inf")}, {"start": 1e15}, {"root": "http://host/x"}, {"suffix": ".wav\0"}]
)
def test_settings_of_a_sidecar_that_make_no_sense(options):
    with pytest.raises(ConfigError):
        sidecar(**{"suffix": ".wav"} | options)


def test_a_sidecar_below_a_root_has_the_name_of_the_file_and_not_its_text(tmp_path):
    found = sidecar(".csv", root=str(tmp_path)).find(Encoded(data=b"v", key=r"a\\b/caf\xe9.mp4"))
    assert found.path == f"{tmp_path}/a\\b/" + os.fsdecode(b"caf\xe9.csv")
    with pytest.raises(BadVideo, match="no name below a folder"):
        sidecar(".csv", root=str(tmp_path)).find(Encoded(data=b"v", key=r"\x2e\x2e/up.mp4"))


def test_a_file_in_place_of_a_folder_of_annotations_is_one_line(tmp_path):
    place(tmp_path, "hmdb51_org/wave/a.avi")
    (tmp_path / "testTrainMulti_7030_splits").touch()
    with pytest.raises(ConfigError, match=r"hmdb51: .*testTrainMulti_7030_splits cannot be read: Not a directory"):
        hmdb51.read(str(tmp_path)).listing()


@pytest.mark.parametrize("error", [KeyError("id"), TypeError("str"), AttributeError("x"), ValueError("number")])
def test_a_malformed_annotation_file_is_one_line(error):
    def function() -> Listing:
        raise error

    with pytest.raises(ConfigError, match="webvid: an annotation file is malformed"):
        Catalog("webvid", {}, function).listing()
