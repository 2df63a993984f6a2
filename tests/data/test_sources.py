"""Sources: folders, lists in every official format, TFDS records; each mistake reported in one line."""

import os
import shutil
import struct
import time
from types import SimpleNamespace

import numpy as np
import pytest
from numbered_videos import numbered_frames

from vmae_jax import spec
from vmae_jax.data import sources
from vmae_jax.data.decode import probe, read_frames
from vmae_jax.data.encode import encode_h264
from vmae_jax.data.prepare import record, run, runners, shards
from vmae_jax.data.prepare.inputs import listed
from vmae_jax.data.prepared_files import TFRecords
from vmae_jax.data.synthetic import moving_shapes
from vmae_jax.data.video import BadVideo
from vmae_jax.spec import ConfigError


def write_list(tmp_path, text):
    path = tmp_path / "list.csv"
    path.write_text(text)
    return str(path)


@pytest.fixture
def touch(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")

    return make


def entries(source):
    return [(source.fetch(i).path, source.fetch(i).labels.get("label")) for i in range(len(source))]


def test_folder_in_order_of_names(video_folder):
    source = sources.folder(str(video_folder)).open()
    keys = [source.fetch(i).key for i in range(len(source))]
    assert keys == sorted(keys)
    assert len(keys) == 10
    assert keys[0] == "even/video_0.mp4"
    assert source.label_names == {}
    assert source.fetch(0).labels == {}


def test_folder_labels(video_folder):
    source = sources.folder(str(video_folder), labels="folders").open()
    assert source.label_names == {"label": ("even", "odd")}
    assert [source.fetch(i).labels["label"] for i in range(10)] == [0] * 5 + [1] * 5


def test_folder_follows_links_once_and_skips_what_is_hidden(tmp_path, touch):
    touch("root/a/1.mp4", "root/.hidden/2.mp4", "root/a/.3.mp4", "elsewhere/4.AVI", "root/a/text.txt")
    os.symlink(tmp_path / "elsewhere", tmp_path / "root" / "b")
    os.symlink(tmp_path / "root", tmp_path / "root" / "a" / "loop")
    source = sources.folder(str(tmp_path / "root")).open()
    assert [source.fetch(i).key for i in range(len(source))] == ["a/1.mp4", "b/4.AVI"]


def test_folder_mistakes(tmp_path, touch):
    with pytest.raises(ConfigError, match="no folder"):
        sources.folder(str(tmp_path / "none")).open()
    with pytest.raises(ConfigError, match="no video in"):
        sources.folder(str(tmp_path)).open()
    touch("loose.mp4")
    with pytest.raises(ConfigError, match=r"loose\.mp4' is in none"):
        sources.folder(str(tmp_path), labels="folders").open()
    with pytest.raises(ConfigError, match="labels='x'"):
        sources.folder(str(tmp_path), labels="x")


@pytest.mark.parametrize(
    ("line", "name", "label"),
    [
        ("a.mp4", "a.mp4", None),
        ("a.mp4 0 -1", "a.mp4", None),
        ("a.mp4 3", "a.mp4", 3),
        ("a.mp4,3", "a.mp4", 3),
        ("a.mp4, 3", "a.mp4", 3),
        ("a.mp4 -1", "a.mp4", None),
        ("a.mp4 0 -1 7", "a.mp4", 7),
        ("my own clip.mp4 0 -1", "my own clip.mp4", None),
        ("my own 5.mp4 3", "my own 5.mp4", 3),
        ('"odd, name.mp4" 3', "odd, name.mp4", 3),
        ("odd, name.mp4,3", "odd, name.mp4", 3),
        ("UPPER.MP4 4", "UPPER.MP4", 4),
    ],
)
def test_official_lists_of_videos(tmp_path, touch, line, name, label):
    touch(name)
    source = sources.csv(write_list(tmp_path, f"\n{line}\n\n")).open()
    assert entries(source) == [(str(tmp_path / name), label)]


def test_names_of_classes_and_a_header(tmp_path, touch):
    touch("a.mp4", "b c.mp4")
    text = "path,label\na.mp4,riding a bike\nb c.mp4,abseiling\n"
    source = sources.csv(write_list(tmp_path, text)).open()
    assert source.label_names == {"label": ("abseiling", "riding a bike")}
    assert [label for _, label in entries(source)] == [1, 0]


def test_root_and_absolute_paths(tmp_path, touch):
    touch("videos/a.mp4", "other/b.mp4")
    text = f"a.mp4 1\n{tmp_path}/other/b.mp4 2\n"
    source = sources.csv(write_list(tmp_path, text), root=str(tmp_path / "videos")).open()
    assert entries(source) == [(str(tmp_path / "videos/a.mp4"), 1), (str(tmp_path / "other/b.mp4"), 2)]


def test_folders_of_pictures(tmp_path, touch):
    from PIL import Image

    frames = numbered_frames(8)
    for folder in ("clip 2", "x"):
        (tmp_path / folder).mkdir()
        for number, frame in enumerate(frames, start=1):
            Image.fromarray(frame).save(tmp_path / folder / f"img_{number:05}.jpg", quality=95)
    source = sources.csv(write_list(tmp_path, "clip 2 1 8\nx 3 5\n")).open()
    assert probe(source.fetch(0)).num_frames == 8
    assert probe(source.fetch(1)).num_frames == 5
    got = read_frames(source.fetch(1), [0])[0, 8, 4].astype(int)
    assert np.abs(got - frames[2, 8, 4]).max() < 6
    tuning = sources.csv(write_list(tmp_path, "x 8 4\n"), columns="path count label").open()
    assert tuning.fetch(0).labels == {"label": 4}
    assert read_frames(tuning.fetch(0), [7]).shape == (1, 32, 32, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a.mp4 0 -1\na.mp4 3\na.mp4 0 -1\n", "line 2"),
        ("a.mp4 1\na.mp4 walking\n", "line 2"),
        ("../a.mp4 1\n", "leads out of"),
        ("folder 0 0\n", "0 pictures"),
        ("folder 1 1000000000000\n", "line 1: 1,000,000,000,000 pictures; at most 1,000,000"),
        ("folder -99999999 1\n", "line 1: 99,999,999 pictures; at most"),
        ("gone/b.mp4 0 -1\n", r"1 of the 1 videos of .* are not there"),
    ],
)
def test_list_mistakes(tmp_path, touch, text, words):
    touch("a.mp4")
    with pytest.raises(ConfigError, match=words) as caught:
        sources.csv(write_list(tmp_path, text)).open()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["," * 500_000, "1," * 250_000, "a b" + " \t," * 200_000 + "x", "9" * 500_000 + "x"])
def test_a_line_of_any_length_takes_no_time(tmp_path, text):
    """A list of a stranger ends in a moment, whatever is repeated in it."""
    began = time.process_time()
    with pytest.raises(ConfigError):
        sources.csv(write_list(tmp_path, text + "\n")).open()
    assert time.process_time() - began < 30


def test_lists_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        sources.csv(str(tmp_path / "none.csv")).open()
    for data, words in ((b"\xff\xfe\x00\xd8", "no UTF-16 text"), (b"a.mp4\0\n", "is no text: it holds zero bytes")):
        (tmp_path / "binary.csv").write_bytes(data)
        with pytest.raises(ConfigError, match=words):
            sources.csv(str(tmp_path / "binary.csv")).open()
    with pytest.raises(ConfigError, match="columns="):
        sources.csv(write_list(tmp_path, "a.mp4"), columns="label path").open()


SMALL = moving_shapes.settings(train=12, validation=3, test=2, size=16, frames=6)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    return folder, moving_shapes.moving_shapes(SMALL, directory=folder).open()


def test_tfds_records_at_random(prepared):
    _, source = prepared
    assert len(source) == 12
    assert len(source.label_names["label"]) == 10
    keys = [source.fetch(i).key for i in (11, 0, 5)]
    assert len(set(keys)) == 3
    assert read_frames(source.fetch(3), [5]).shape == (1, 16, 16, 3)


def test_tfds_splits_and_directories(prepared):
    folder, source = prepared
    part = moving_shapes.moving_shapes(SMALL, "train[4:7]", directory=folder).open()
    assert [part.fetch(i).key for i in range(3)] == [source.fetch(i).key for i in range(4, 7)]
    assert len(moving_shapes.moving_shapes(SMALL, "validation", directory=folder).open()) == 3
    directory = os.path.join(folder, "moving_shapes", SMALL.name)
    by_folder = sources.tfds(directory=directory, split="validation").open()
    assert len(by_folder) == 3
    assert by_folder.label_names == source.label_names
    again = sources.tfds(directory=directory).open()  # of the same records, whatever splits were added since
    assert again.fingerprint == source.fingerprint
    assert by_folder.fingerprint != source.fingerprint


def test_tfrecords_give_the_same_as_array_records(prepared, tmp_path):
    _, source = prepared
    chosen = record.options(file_format="tfrecord")
    layout = shards.layout(str(tmp_path), name="moving_shapes", split="train", file_format="tfrecord")
    inputs = listed(moving_shapes.Clips(SMALL, "train", range(12)))
    run.prepare(lambda: run.Plan(inputs, layout, chosen), layout, runners.local_runner(1, progress=False))
    other = sources.tfds(directory=str(tmp_path)).open()
    assert {path.suffix[:9] for path in tmp_path.glob("moving_shapes-*")} == {".tfrecord"}
    assert len(other) == 12
    by_key = {source.fetch(i).key: source.fetch(i) for i in range(12)}
    for index in (7, 0, 11, 3):
        assert other.fetch(index) == by_key[other.fetch(index).key]
    part = sources.tfds(directory=str(tmp_path), split="train[2:5]").open()
    assert [part.fetch(i).key for i in range(3)] == [other.fetch(i).key for i in range(2, 5)]


def test_a_truncated_tfrecord_is_reported(tmp_path):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(struct.pack("<Q", 100) + b"\0" * 20)
    with pytest.raises(ConfigError, match="ends within a record"):
        TFRecords([(str(path), 0, 1)])


def test_tfds_mistakes(prepared, tmp_path):
    folder, _ = prepared
    directory = os.path.join(folder, "moving_shapes", SMALL.name)
    cases = [
        (sources.tfds(name="no_such_set", data_dir=folder), "TFDS has no dataset 'no_such_set'"),
        (sources.tfds(name="ucf101/ucf101_1", data_dir=str(tmp_path)), "is not prepared in .*; prepare it with TFDS"),
        (sources.tfds(directory=str(tmp_path)), "holds no prepared TFDS dataset"),
        (sources.tfds(directory=directory, split="nope"), "no split 'nope'"),
        (sources.tfds(directory=directory, video="clip"), "no feature 'clip'"),
    ]
    for opener, words in cases:
        with pytest.raises(ConfigError, match=words) as caught:
            opener.open()
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="either name= or directory="):
        sources.tfds()
    with pytest.raises(ConfigError, match="data_dir='x' belongs to name="):
        sources.tfds(directory="y", data_dir="x")


def test_a_dataset_by_its_name(prepared, tmp_path, monkeypatch):
    """As TFDS keeps what it has prepared: in its own folder, NAME/VERSION."""
    folder, source = prepared
    shutil.copytree(os.path.join(folder, "moving_shapes", SMALL.name), tmp_path / "moving_shapes" / "1.0.0")
    by_name = sources.tfds(name="moving_shapes", data_dir=str(tmp_path)).open()
    assert [by_name.fetch(i).key for i in range(12)] == [source.fetch(i).key for i in range(12)]
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(sources.tfds(name="moving_shapes", split="train[:5]").open()) == 5


def test_features_video_of_tfds_is_read_as_pictures(tmp_path):
    """`tfds.features.Video` stores coded pictures; they come out as frames."""
    import io

    from PIL import Image

    from vmae_jax.data.records import Records
    from vmae_jax.data.tf import tensorflow

    pictures = []
    for frame in numbered_frames(3):
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "PNG")
        pictures.append(file.getvalue())
    train = tensorflow().train
    features = {"video": train.Feature(bytes_list=train.BytesList(value=pictures))}
    record = train.Example(features=train.Features(feature=features)).SerializeToString()
    source = Records([record, b"\xff"], features=("video", "label", "key"), label_names={}, name="set")
    np.testing.assert_array_equal(read_frames(source.fetch(0), [2])[0], numbered_frames(3)[2])
    with pytest.raises(BadVideo, match="record 1 of set"):
        source.fetch(1)


def test_configs_build_without_touching_anything(tmp_path):
    """A config names sources on disks that are not here."""
    settings = spec.call("data.synthetic.moving_shapes.settings", train=50)
    config = spec.call("data.synthetic.moving_shapes", directory="/nowhere", settings=settings)
    again = spec.from_json(spec.to_json(config))
    opener = spec.build(again)
    assert opener.settings.train == 50
    assert spec.build(spec.call("data.sources.folder", path="/nowhere")).path == "/nowhere"
    spec.build(spec.call("data.sources.csv", path="/nowhere.csv"))


def test_remote_files_are_fetched_as_bytes(monkeypatch):
    from vmae_jax.data import files

    data = encode_h264(numbered_frames(2))
    bucket = {"gs://bucket/a.mp4": data}
    monkeypatch.setattr("etils.epath.Path", lambda path: SimpleNamespace(read_bytes=lambda: bucket[path]))
    source = files.Files([files.Entry("gs://bucket/a.mp4")], root="gs://bucket")
    assert source.fetch(0).data == data
    assert source.fetch(0).key == "a.mp4"
