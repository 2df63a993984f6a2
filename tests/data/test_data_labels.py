"""Labels of every kind from a list or a record to a batch, and the messages about wrong ones."""

import time

import numpy as np
import pytest
from numbered_videos import numbered_frames

from vmae_jax.data import clips, labels, pipeline, sources, transforms
from vmae_jax.data.encode import encode_h264
from vmae_jax.data.opened import open_loader
from vmae_jax.spec import ConfigError


@pytest.fixture
def three(tmp_path):
    """A list maker beside three videos, a.mp4, b.mp4 and c.mp4."""
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(encode_h264(numbered_frames(4)))

    def make(*fields, **options):
        text = "".join(f"{name}.mp4,{field}\n" for name, field in zip("abc", fields, strict=True))
        (tmp_path / "list.csv").write_text(text)
        return sources.csv(str(tmp_path / "list.csv"), **options)

    return make


def batch(source, kinds):
    loader = pipeline.loader(
        source, clips.dense(frames=2, stride=1), [transforms.multi_scale_crop(32)], global_batch=4, labels=kinds,
        shuffle=False, workers=1,
    )  # fmt: skip
    with open_loader(loader).once(rows=range(4)) as batches:
        found = next(batches)
    for name, spec in loader.spec().items():
        assert (found[name].shape, found[name].dtype) == (spec.shape, spec.dtype), name
    return found


def test_every_kind_of_label_comes_into_a_batch(three):
    found = batch(three("0;2", "1", "-"), {"label": labels.many(3)})
    np.testing.assert_array_equal(found["label"], [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]])
    source = three("take,cup,0.5;1", "put,cup,1;1", "take,jar,2;-1.5", columns="path verb noun label")
    kinds = {"verb": labels.one(), "noun": labels.one(), "label": labels.numbers(2)}
    assert source.open().label_names == {"verb": ("put", "take"), "noun": ("cup", "jar")}
    found = batch(source, kinds)
    assert found["verb"].tolist() == [1, 0, 1, 0]
    assert found["noun"].tolist() == [0, 0, 1, 0]
    np.testing.assert_array_equal(found["label"], [[0.5, 1], [1, 1], [2, -1.5], [0, 0]])
    assert found["valid"].tolist() == [True, True, True, False]


def test_names_in_a_file_number_the_classes(three, tmp_path):
    (tmp_path / "names.txt").write_text("walk\nrun\n\njump\n")
    names = {"label": str(tmp_path / "names.txt")}
    source = three("jump", "run;walk", "walk", names=names).open()
    assert [source.fetch(i).labels["label"] for i in range(3)] == [2, (1, 0), 0]
    with pytest.raises(ConfigError, match=r"line 2: unknown label 'runn' \(did you mean 'run'\?\)"):
        three("jump", "runn", "walk", names=names).open()
    with pytest.raises(ConfigError, match="has no such column, only path, label"):
        three("jump", "run", "walk", names={"verb": names["label"]}).open()
    (tmp_path / "names.txt").write_text("walk\nwalk\n")
    with pytest.raises(ConfigError, match="has 'walk' twice"):
        three("jump", "run", "walk", names=names).open()


def test_folders_by_a_file_of_names(video_folder, tmp_path):
    (tmp_path / "names.txt").write_text("odd\neven\nprime\n")
    source = sources.folder(str(video_folder), labels="folders", names=str(tmp_path / "names.txt")).open()
    assert source.fetch(0).labels == {"label": 1}
    assert source.label_names == {"label": ("odd", "even", "prime")}
    (tmp_path / "names.txt").write_text("odd\n")
    with pytest.raises(ConfigError, match="unknown label 'even'"):
        sources.folder(str(video_folder), labels="folders", names=str(tmp_path / "names.txt")).open()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (labels.many(3), (1, 3), "has class 3, but there are 3 classes, 0 to 2"),
        (labels.many(3), None, "has no label"),
        (labels.many(3), (0.5, 1.5, 0.0), "3 numbers from 0 to 1"),
        (labels.one(), (1, 2), r"has label \[1, 2\], where one class is wanted"),
        (labels.one(), None, "has no label, where one class"),
        (labels.one(), (0.5,), "where one class"),
        (labels.one(), (float("inf"),), "where one class"),
        (labels.one(), (float("nan"),), "where one class"),
        (labels.one(), 1 << 31, "where one class"),
        (labels.numbers(2), (0.5,), "where 2 finite numbers"),
        (labels.numbers(1), (float("nan"),), "where 1 finite"),
    ],
)
def test_a_label_that_does_not_fit_is_reported_in_one_line(field, value, words):
    with pytest.raises(ConfigError, match=words) as result:
        field.array(value, "video 7")
    assert "\n" not in str(result.value)
    assert "video 7" in str(result.value)


def test_numbers_of_any_length_are_one_line_and_take_no_time():
    where = lambda row: f"line {row}"  # noqa: E731
    with pytest.raises(ConfigError, match=r"line 1: label 9{40} has more than 18 digits"):
        labels.read_column(["1", "9" * 5000], (), where)
    began = time.process_time()
    assert labels.read_column(["9" * 200_000 + "x"], (), where)[1] == ("9" * 200_000 + "x",)
    assert time.process_time() - began < 10


def test_mistakes_of_a_loader(three):
    with pytest.raises(ConfigError, match="ask for 'verb', but the source has only label"):
        batch(three("0", "1", "2"), {"verb": labels.one()})
    with pytest.raises(ConfigError, match="under a free name"):
        labels.fields({"video": labels.one()})
    with pytest.raises(ConfigError, match=r"labels\['label'\]: b\.mp4 has class 5"):
        batch(three("0", "5", "2"), {"label": labels.many(3)})
    with pytest.raises(ConfigError, match="has 2 classes, the source 3"):
        batch(three("x", "y", "z"), {"label": labels.many(2)})


def test_records_of_tfds_hold_every_kind():
    from vmae_jax.data.records import Records
    from vmae_jax.data.tf import tensorflow

    train = tensorflow().train
    whole = lambda *values: train.Feature(int64_list=train.Int64List(value=values))  # noqa: E731
    features = {
        "video": train.Feature(bytes_list=train.BytesList(value=[b"x"])),
        "class": whole(3), "labels": whole(1, 4), "verb": whole(0), "none": whole(),
        "angle": train.Feature(float_list=train.FloatList(value=[0.5, 2.0])),
    }  # fmt: skip
    record = train.Example(features=train.Features(feature=features)).SerializeToString()
    source = Records([record], features=("video", "class", "key"), label_names={}, name="set")
    assert source.fetch(0).labels == {
        "label": 3, "labels": (1, 4), "verb": 0, "none": (), "angle": (0.5, 2.0)
    }  # fmt: skip
