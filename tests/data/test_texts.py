"""One rule for text files of other programs: which encodings are read, and how every other file is refused."""

import argparse
import codecs
import csv
import os

import numpy as np
import pytest

from vmae_jax.commands.weights import run_export
from vmae_jax.data import sides, texts
from vmae_jax.data.labels import read_names
from vmae_jax.data.listing import Manual
from vmae_jax.data.streams.core import Clip, ClipShape, Streams
from vmae_jax.data.streams.tables import read_columns
from vmae_jax.data.streams.text import text as text_stream
from vmae_jax.data.streams.tokenizers import utf8
from vmae_jax.data.video import BadVideo, Encoded, Side, VideoInfo
from vmae_jax.spec import ConfigError

WORDS = "Zwölf, ein€ 👋"


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_utf_8_or_utf_16_with_its_mark(encoding, names):
    assert texts.text_of(WORDS.encode(encoding), names=names) == WORDS
    assert texts.text_of(codecs.BOM_UTF16_BE + WORDS.encode("utf-16-be"), names=names) == WORDS
    assert not texts.has_raw_bytes(WORDS)


def test_other_bytes_stand_as_in_names_of_files_or_are_refused():
    assert os.fsencode(texts.text_of(b"caf\xe9.mp4", names=True)) == b"caf\xe9.mp4"
    assert texts.has_raw_bytes(texts.text_of(b"caf\xe9", names=True))
    with pytest.raises(ValueError, match=r"is no UTF-8 text \(byte 0xe9 at 3\); convert it, .*iconv"):
        texts.text_of(codecs.BOM_UTF8 + b"caf\xe9")
    for names in (False, True):
        with pytest.raises(ValueError, match="is no text: it holds zero bytes"):
            texts.text_of(WORDS.encode("utf-16-le"), names=names)
        with pytest.raises(ValueError, match="is no UTF-16 text"):
            texts.text_of(b"\xff\xfe\x00\xd8", names=names)


def test_files_that_never_end_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(ValueError, match="is no regular file"):
            texts.read_text(path)
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 40)
    with pytest.raises(ValueError, match="has more than 4096 MiB"):
        texts.read_text(str(tmp_path / "hole"))
    with pytest.raises(OSError, match="directory"):
        texts.read_text(str(tmp_path))
    (tmp_path / "file").write_text(WORDS)
    assert texts.read_text(str(tmp_path / "file")) == WORDS


def test_annotations_and_class_names_follow_it(tmp_path):
    (tmp_path / "names").write_bytes("ä\nb\n".encode("utf-16"))
    assert read_names(str(tmp_path / "names")) == ("ä", "b")
    manual = Manual("set", str(tmp_path), layout="names")
    assert manual.lines(str(tmp_path / "names")) == ["ä", "b"]
    (tmp_path / "latin").write_bytes(b"\xe4\n")
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("latin", "is no UTF-8 text"), ("pipe", "is no regular file"), ("none", "No such file")):
        for read in (lambda path: read_names(path), lambda path: manual.text(path)):
            with pytest.raises(ConfigError, match=words) as found:
                read(str(tmp_path / name))
            assert "\n" not in str(found.value)


def test_labels_of_an_export_follow_it(tmp_path):
    (tmp_path / "latin").write_bytes(b"\xe4\n")
    given = {"checkpoint": "x", "format": "hf", "out": "y", "dtype": "float32", "ema": False, "part": "all"}
    with pytest.raises(ConfigError, match=r"--labels=.*latin: is no UTF-8 text"):
        run_export(argparse.Namespace(**given, labels=str(tmp_path / "latin"), license=None, video=None))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_in_every_form(tmp_path, suffix, encoding):
    mark = "\t" if suffix == ".tsv" else ","
    text = f'path{mark}caption\ncafé{mark}"{WORDS}"\n' if suffix != ".jsonl" else (
        '{"path": "café", "caption": "' + WORDS + '"}\n')  # fmt: skip
    (tmp_path / f"t{suffix}").write_bytes(text.encode(encoding))
    rows = sides.table(str(tmp_path / f"t{suffix}"), "caption").open()
    assert rows.find(Encoded(data=b"v", key="café.mp4")).data.decode() == WORDS


def test_a_table_names_files_whose_names_are_not_utf_8_and_its_texts_are(tmp_path):
    """`caf\\xe9.mp4` is the key of a file that Latin-1 named, and a table that `ls` helped to write has its bytes."""
    (tmp_path / "t.csv").write_bytes(b"path,caption,by\ncaf\xe9.mp4,good,Zo\xeb\nb.mp4,fine,x\n")
    rows = sides.table(str(tmp_path / "t.csv"), "caption").open()
    assert rows.find(Encoded(data=b"v", key=r"caf\xe9.mp4")).data == b"good"
    (tmp_path / "t.csv").write_bytes("path,caption\na.mp4,fine\nb.mp4,Zwölf\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"row 2 of .*t\.csv: 'caption' is no UTF-8 text; convert the table"):
        sides.table(str(tmp_path / "t.csv"), "caption").open()


def test_texts_of_tables_are_bounded_and_the_process_is_as_it_was(tmp_path):
    before = csv.field_size_limit()
    for name, text in {
        "t.csv": "path,caption\na," + "x" * 140_000 + "\n",
        "t.jsonl": '{"path": "a", "caption": "' + "x" * 140_000 + '"}\n',
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=r"field larger than|has 140,000 characters; at most 131,072"):
            sides.table(str(tmp_path / name), "caption").open()
    (tmp_path / "t.csv").write_text("path,caption\na," + "x" * 100_000 + "\n")
    assert len(sides.table(str(tmp_path / "t.csv"), "caption").open().find(Encoded(data=b"v", key="a")).data) == 100_000
    columns = read_columns(b"time,x\n" + b"0," + b"1" * 70_000 + b"e-70000\n", ["time", "x"])
    assert columns["x"].shape == (1,)
    assert csv.field_size_limit() == before


def test_tables_of_numbers_may_hold_other_bytes_where_nobody_looks():
    assert read_columns(b"time,x,who\n0,1,Zo\xeb\n", ["time", "x"])["x"].tolist() == [1.0]
    assert read_columns("time,x\n0,1\n".encode("utf-16"), ["time", "x"])["x"].tolist() == [1.0]
    with pytest.raises(BadVideo, match="is no table of numbers"):
        read_columns(b"time,x\n0,\xeb\n", ["time", "x"])


def test_captions_follow_it():
    info = VideoInfo(4, 25.0, np.arange(4) / 25, 8, 8)
    clip = Clip(np.arange(4), np.arange(4) / 25, (0.0, 0.16), (8, 8), None, (0, 0))

    def read(data):
        streams = Streams({"x": text_stream(utf8(), 8, random=False)}, ClipShape(4, 8, 3))
        arrays = {name: np.zeros((1, *spec.shape), spec.dtype) for name, spec in streams.specs().items()}
        streams.read(Encoded(data=b"v", sides={"x": Side(data=data)}), info, [clip], arrays, None)
        return bytes(int(t) - 3 for t in arrays["x"][0][arrays["x_mask"][0]] if t > 2)

    assert read("äb".encode("utf-16")) == read("äb".encode("utf-8-sig")) == "äb".encode()
    with pytest.raises(BadVideo, match="x: is no UTF-8 text"):
        read(b"\xe4b")
