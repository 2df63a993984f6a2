"""What is beside a video: files named after it and rows of tables, with strangers' names kept in their folder."""

import os

import numpy as np
import pytest
from numbered_videos import numbered_frames

from vmae_jax.data import clips, mixture, sides, sources, transforms
from vmae_jax.data.encode import encode_h264
from vmae_jax.data.opened import open_loader
from vmae_jax.data.pipeline import loader
from vmae_jax.data.streams.text import text
from vmae_jax.data.streams.tokenizers import utf8
from vmae_jax.data.video import BadVideo, Encoded
from vmae_jax.spec import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("beside")
    data = encode_h264(numbered_frames(6), quality=4)
    for name in ("one", "two", "three"):
        (root / "in").mkdir(exist_ok=True)
        (root / "in" / f"{name}.mp4").write_bytes(data)
    return root


def texts(source):
    """What a stream of text reads of each video, in the source's order."""
    made = loader(source, clips.dense(2, 1), [transforms.resize(8)], global_batch=4, workers=1,
                  streams={"text": text(utf8(), 40, random=False)})  # fmt: skip
    with open_loader(made).once(rows=range(4)) as batches:
        batch = next(batches)
    shown = [
        bytes(int(t) - 3 for t in row[mask] if t > 2).decode() for row, mask in zip(batch["text"], batch["text_mask"])
    ]
    return [one if valid else None for one, valid in zip(shown, batch["text_valid"], strict=True)][
        : batch["valid"].sum()
    ]


def beside(folder, **found):
    return sides.beside(sources.folder(str(folder / "in")), found)


def test_sides_that_no_video_has_are_refused_when_they_are_opened(folder, monkeypatch):
    (folder / "empty.csv").write_text("path,caption\nnobody,x\n")
    wrong = {
        "suffix '_us.srt', such as .*/in/": sides.sidecar("_us.srt"),
        "suffix '.oga', such as .*/nowhere/": sides.sidecar(".oga", root=str(folder / "nowhere")),
        "have a row in the table; check": sides.table(str(folder / "empty.csv"), "caption"),
    }
    for message, side in wrong.items():
        with pytest.raises(ConfigError, match=rf"sides\['text'\]: 0 of the 3 videos .*{message}"):
            beside(folder, text=side).open()
    assert len(beside(folder, text=sides.sidecar(".txt", root="gs://bucket")).open()) == 3, "not looked for"
    monkeypatch.setattr(sides, "_LOOKED", 2)
    with pytest.raises(ConfigError, match="0 of the 2 videos that were looked at, of 3, have"):
        beside(folder, text=sides.sidecar("_us.srt")).open()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_table_is_looked_up_by_name(folder, suffix):
    file = folder / f"captions{suffix}"
    if suffix == ".csv":
        file.write_text('path,other,caption\none,x,"A cat,\nand a dog"\ntwo.mp4,x,Zwölf\nnobody,x,y\n', "utf-8-sig")
    else:
        file.write_text('{"path": "one", "caption": "A cat, and a dog"}\n\n{"path": "two.mp4", "caption": "Zwölf"}\n')
    assert texts(beside(folder, text=sides.table(str(file), "caption"))) == ["A cat, and a dog", None, "Zwölf"]


def test_rows_of_one_video_are_lines(folder):
    file = folder / "many.csv"
    file.write_text("path,caption\none,first\none,second\n")
    source = beside(folder, text=sides.table(str(file), "caption")).open()
    assert source.fetch(0).sides["text"].data == b"first\nsecond"
    assert source.fetch(0).key == "one.mp4"
    assert (len(source), dict(source.fetch(1).sides)) == (3, {})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "cannot be read"),
        ("a.csv", b"path,text\none,x\n", "no text in a column 'caption'; it has path, text"),
        ("short.csv", b"path,caption\none\n", "row 1 of .* has no text in a column 'caption'"),
        ("b.csv", b"\xff\xfe\x00", "is no UTF-16 text"),
        ("c.jsonl", b'{"path": "one"', "cannot be read"),
        ("d.jsonl", b"[1]", "a line that is no object"),
        ("e.jsonl", b'{"path": "one", "caption": 3}', "no text in a column 'caption'"),
    ],
)
def test_other_tables_are_refused(tmp_path, name, content, message):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        sides.table(str(file), "caption").open()


def test_files_next_to_the_videos_and_below_another_folder(folder):
    (folder / "in" / "one.txt").write_text("next to it")
    (folder / "words").mkdir(exist_ok=True)
    (folder / "words" / "two_en.srt").write_text("1\n00:00:00,000 --> 00:00:10,000\nbelow\n")
    assert texts(beside(folder, text=sides.sidecar(".txt"))) == ["next to it", None, None]
    assert texts(beside(folder, text=sides.sidecar("_en.srt", root=str(folder / "words")))) == [None, None, "below"]


@pytest.mark.parametrize("key", ["../secret", "/etc/passwd", "a/../../b", ""])
def test_names_that_lead_out_of_the_folder_are_refused(key):
    finder = sides.sidecar(".txt", root="/words").open()
    with pytest.raises(BadVideo, match="no name below a folder"):
        finder.find(Encoded(data=b"x", key=key))
    inside = finder.find(Encoded(data=b"x", key="a/../b.mp4"))
    assert inside is not None
    assert inside.path == "/words/b.txt"


def test_pictures_have_files_beside_them_too(tmp_path):
    finder = sides.sidecar(".txt").open()
    one, many = str(tmp_path / "a.b.png"), str(tmp_path / "clip.1" / "img_1.jpg")
    assert finder.find(Encoded(frames=(one,))).path == str(tmp_path / "a.b.txt")
    assert finder.find(Encoded(frames=(many, many))).path == str(tmp_path / "clip.1.txt")
    assert finder.find(Encoded(data=b"x")) is None


def test_parts_of_a_mixture_have_their_own(folder):
    (folder / "caption.csv").write_text("path,caption\none,of the first part\n")
    table = sides.table(str(folder / "caption.csv"), "caption")
    parts = {
        "a": mixture.part(beside(folder, text=table)),
        "b": mixture.part(sources.folder(str(folder / "in"))),
    }
    made = loader(mixture.mixture(parts), clips.dense(2, 1), [transforms.resize(8)], global_batch=6, workers=1,
                  streams={"text": text(utf8(), 40)})  # fmt: skip
    with open_loader(made).once(rows=range(6)) as batches:
        batch = next(batches)
    assert batch["text_valid"].tolist() == [True] + [False] * 5
    with pytest.raises(ConfigError, match="around a part of a mixture"):
        sides.beside(mixture.mixture(parts), {"text": table})


def test_a_side_file_of_a_bucket_passes_through_this_process(tmp_path, monkeypatch):
    finder = sides.sidecar(".txt", root="memory://words").open()
    files = {"memory://words/a.txt": b"from afar"}

    class Remote:
        def __init__(self, path):
            self.path = os.fspath(path)

        def exists(self):
            return self.path in files

        def stat(self):
            return type("Status", (), {"length": len(files[self.path])})

        def read_bytes(self):
            return files[self.path]

    monkeypatch.setattr("etils.epath.Path", Remote)
    assert finder.find(Encoded(data=b"x", key="a.mp4")).data == b"from afar"
    assert finder.find(Encoded(data=b"x", key="b.mp4")) is None
    monkeypatch.setattr(sides, "_REMOTE_BYTES", 3)
    with pytest.raises(BadVideo, match="more than"):
        finder.find(Encoded(data=b"x", key="a.mp4"))


def test_nothing_is_read_twice_into_two_batches(folder):
    """The same seed and position give the same caption, from any start."""
    file = folder / "drawn.csv"
    file.write_text("path,caption\n" + "".join(f"{name},{n}\n" for name in ("one", "two", "three") for n in range(9)))
    made = loader(beside(folder, text=sides.table(str(file), "caption")), clips.dense(2, 1), [transforms.resize(8)],
                  global_batch=3, repeat=2, workers=2, streams={"text": text(utf8(), 8)})  # fmt: skip
    opened = open_loader(made)
    with opened.batches(rows=range(6), seed=1) as batches:
        whole = [next(batches)["text"] for _ in range(4)]
    with opened.batches(rows=[4, 1], seed=1, start=6) as batches:
        np.testing.assert_array_equal(next(batches)["text"], whole[2][[4, 1]])
    assert len({row.tobytes() for batch in whole for row in batch}) > 4
