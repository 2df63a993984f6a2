"""Published datasets, read from the distributed files by training and by `vmae data prepare --dataset`."""

import pathlib
import pickle
import re

import numpy as np
import pytest
from owners_files import kinetics, place, write

from vmae_jax import spec
from vmae_jax.data import catalog, sources
from vmae_jax.data.clips import dense
from vmae_jax.data.decode import probe, read_frames
from vmae_jax.data.prepare.examples import examples
from vmae_jax.data.prepare.record import options
from vmae_jax.data.video import BadVideo, Encoded
from vmae_jax.data.workers import Workers
from vmae_jax.plugins import allow_plugins
from vmae_jax.spec import ConfigError


@pytest.fixture
def k400(tmp_path):
    return kinetics(tmp_path / "k400", ["b/x1", "a/x2", "a/gone"], ["a/y"], absent=("gone",))


def opened(text, folder, split):
    return catalog.open_catalog(catalog.catalog_named(text, str(folder)), split)


def test_the_owners_files_are_a_source(k400):
    read = spec.call("data.catalogs.kinetics.read", version="400", directory=str(k400))
    config = spec.call("data.sources.catalog", catalog=read)
    source = spec.build(spec.from_json(spec.to_json(config))).open()
    assert source.label_names == {"label": ("a", "b")}
    assert [(source.fetch(i).key, source.fetch(i).labels) for i in range(len(source))] == [
        ("x1_000003_000013", {"label": 1}),
        ("x2_000003_000013", {"label": 0}),
    ]
    assert probe(source.fetch(1)).num_frames == 6
    missing = source.missing
    assert (missing.where, missing.count, missing.listed) == ("kinetics, train", 1, 3)
    assert missing.names == ("gone_000003_000013",)


def test_names_of_classes_are_printable_whatever_the_owners_files_hold(k400):
    annotations = k400 / "annotations" / "train.csv"
    annotations.write_text(annotations.read_text().replace('"a",x2', '"a\n\x1b",x2'))
    rows, _ = opened("kinetics:version=400", k400, "train")
    assert rows.label_names == {"label": ("a", r"a\n\x1b", "b")}
    assert [rows.labels(index) for index in range(2)] == [{"label": 2}, {"label": 1}]


def test_rows_travel_to_the_processes_that_prepare(k400):
    rows, absent = opened("kinetics:version=600", k400, "train")
    assert absent == [("gone_000003_000013", "is not in the folder")]
    part = pickle.loads(pickle.dumps(rows.subset([1])))
    assert (len(part), part.key(0), part.size(0) > 500) == (1, "x2_000003_000013", True)


def test_a_moment_of_a_long_file_is_cut_out_where_it_is_decoded(tmp_path):
    """In a process that may die: the trainer itself only passes the seconds."""
    head = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class"
    for what in ("verb", "noun"):
        write(tmp_path, f"EPIC_100_{what}_classes.csv", ["id,key,instances,category", "0,take,,x"])
    for split, times in (("train", "00:00:00.04,00:00:00.14"), ("validation", "00:01:00,00:01:01")):
        write(tmp_path, f"EPIC_100_{split}.csv", [head, f"P01_01_0,P01,P01_01,{times},0,0"])
    place(tmp_path, "P01/videos/P01_01.MP4")
    rows, _ = opened("epic_kitchens:short_side=16", tmp_path, "train")
    moment = rows.fetch(0)
    assert (moment.moment, moment.data) == ((0.04, 0.14, 16), None)
    assert probe(moment).num_frames == 3  # 0.04, 0.08 and 0.12 s
    workers = Workers(1, sampler=dense(2, 1))
    try:
        clips = workers.decode(moment, np.array([1, 2], np.uint32)).arrays["video"]
        late, _ = opened("epic_kitchens", tmp_path, "validation")
        with pytest.raises(BadVideo, match="has no frame from second 60 to 61"):
            workers.decode(late.fetch(0), np.array([1, 2], np.uint32))
    finally:
        workers.close()
    assert clips.shape[:2] == (1, 2)
    whole = Encoded(path=moment.path)
    np.testing.assert_array_equal(read_frames(moment, [0, 2]), read_frames(whole, [1, 3]))  # as they are stored
    (kept,) = examples(moment, options(codec="keep"), key="one")
    assert (kept["num_frames"], min(kept["height"], kept["width"])) == (3, 16)  # a file of its own, shrunk
    assert probe(Encoded(data=kept["video"])).num_frames == 3
    assert kept["start_us"] == 40_000  # of the long file
    (coded,) = examples(moment, options(codec="jpeg"), key="one")
    assert (coded["num_frames"], min(coded["height"], coded["width"])) == (3, 16)


def test_arguments_have_the_types_of_their_defaults(tmp_path):
    write(tmp_path, "results_2M_train.csv", ["videoid,name", "1,Sea"])
    write(tmp_path, "results_2M_val.csv", ["videoid,name", "2,Sky"])
    place(tmp_path, "1.mp4", "2.mp4")
    rows, _ = opened("webvid:version=2M,share=1.0", tmp_path, "validation")
    assert (rows.key(0), rows.labels(0)) == ("2", {})  # a caption is no label
    assert rows.fetch(0).labels == {"text": "Sky"}


@pytest.mark.parametrize(
    ("text", "split", "words"),
    [
        ("kinetic:version=400", "train", "no such dataset .did you mean 'kinetics'"),
        ("kinetics:versions=400", "train", "no argument 'versions' .did you mean 'version'"),
        ("kinetics:version=450", "train", "there are 400, 600, 700, 710"),
        ("webvid:share=much", "train", "share=much: a value such as 1.0 was expected"),
        ("moving_shapes", "train", "no such dataset; there are audioset, ava, diving48,"),
        ("kinetics:directory=x", "train", "no argument 'directory'"),
        ("a b", "train", "expected a catalog and its arguments"),
        ("kinetics:version=400", "test", "no split 'test' there; it has train, validation"),
    ],
)
def test_mistakes(k400, text, split, words):
    with pytest.raises(ConfigError, match=words) as caught:
        opened(text, k400, split)
    assert "\n" not in str(caught.value)


def test_only_a_catalog_is_taken():
    for other in ("kinetics", spec.call("data.sources.folder", path="x")):
        with pytest.raises(ConfigError, match=r"data\.sources\.catalog: catalog accepts a call"):
            spec.build(spec.call("data.sources.catalog", catalog=other))


def test_any_field_can_be_the_label(tmp_path):
    write(tmp_path, "mmit_categories.txt", ["clapping,0", "singing,1"])
    for file in ("trainingSet.csv", "validationSet.csv"):
        write(tmp_path, file, ["a.mp4,1,0"])
    place(tmp_path, "videos/a.mp4")
    multi = catalog.catalog_named("moments_in_time:version=multi", str(tmp_path))
    source = sources.catalog(multi, label="labels").open()
    assert (source.label_names, source.fetch(0).labels) == ({"label": ("clapping", "singing")}, {"label": (0, 1)})
    with pytest.raises(ConfigError, match="has no label 'verb'; it has labels"):
        sources.catalog(multi, label="verb").open()


def test_a_class_that_is_held_back_is_no_label(k400):
    write(k400, "annotations/test.csv", ["youtube_id,time_start,time_end", "x1,3,13"])
    rows, _ = opened("kinetics:version=400", k400, "test")
    assert (rows.labels(0), rows.kinds) == ({}, {"label": "class"})


def test_the_catalog_of_the_documentation(tmp_path, monkeypatch):
    """One file with `read` is all that a dataset needs, also in a package of the user."""
    page = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "catalogs.md").read_text()
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "def read(" in block]
    (tmp_path / "dives.py").write_text(code)
    write(tmp_path, "classes.txt", ["back", "inward"])
    write(tmp_path, "train.txt", ["one inward", "gone back"])
    write(tmp_path, "validation.txt", ["two back"])
    place(tmp_path, "front/one.mp4", "front/two.mp4", "side/one.mp4")
    monkeypatch.syspath_prepend(str(tmp_path))
    allow_plugins(["dives"])
    read = spec.call("dives.read", directory=str(tmp_path), view="front")
    source = spec.build(spec.call("data.sources.catalog", catalog=read), "source").open()
    assert source.label_names == {"label": ("back", "inward")}
    assert [(source.key(i), source.labels(i)) for i in range(len(source))] == [("one", {"label": 1})]
    assert source.missing.names == ("gone",)
    write(tmp_path, "train.txt", ["one sideways"])
    with pytest.raises(ConfigError, match=r"has the class 'sideways', which is not in classes\.txt in"):
        spec.build(spec.call("data.sources.catalog", catalog=read), "source").open()
    with pytest.raises(ConfigError, match="dives: view='back'; there are side, front"):
        spec.build(spec.call("dives.read", directory="x", view="back"))


@pytest.mark.slow
def test_prepared_from_the_owners_files(k400, tmp_path, capsys):
    """`vmae data prepare --dataset`: splits, labels, what is missing, and records that TFDS opens."""
    import json

    from vmae_jax.cli import main

    out = str(tmp_path / "records")
    for split in ("train", "validation"):
        command = ["data", "prepare", str(k400), "--dataset=kinetics:version=400", f"--split={split}", f"--out={out}"]
        assert main([*command, "--codec=h264", "--short-side=16", "--workers=1", "--quiet"]) == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert result["status"] == "ok"
        assert result["videos"] == {"train": 2, "validation": 1}[split]
    source = sources.tfds(directory=out, split="train").open()
    assert source.label_names["label"] == ("a", "b")
    assert {source.fetch(i).key: source.fetch(i).labels["label"] for i in range(2)} == {
        "kinetics/x1_000003_000013": 1,
        "kinetics/x2_000003_000013": 0,
    }
    assert len(sources.tfds(directory=out, split="validation").open()) == 1
    manifest = json.loads((tmp_path / "records" / "prepared" / "train.json").read_text())
    assert manifest["rejected"] == [["gone_000003_000013", "missing", "is not in the folder"]]
    assert manifest["name"] == "kinetics"
