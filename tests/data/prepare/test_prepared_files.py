"""The metadata of a prepared folder that a stranger wrote are data."""

import json
import shutil
import sys

import pytest
from prepared_sets import in_this_process, prepare

from vmae_jax import cli
from vmae_jax.data import source, sources
from vmae_jax.data.prepared_files import check_prepared
from vmae_jax.spec import ConfigError


@pytest.fixture(scope="module")
def good(video_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "good"
    prepare(video_folder, out, runner=in_this_process, shard_count=2, origin={"labels": "folders"})
    return out


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "copy")


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A module that records that it was imported."""
    (tmp_path / "evil_features.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "ran"
    sys.modules.pop("evil_features", None)


def change(file, *path, value):
    data = json.loads(file.read_text())
    node = data
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    file.write_text(json.dumps(data))


EVIL = "evil_features.Feature"


@pytest.mark.parametrize(
    "path",
    [
        ("pythonClassName",),
        ("python_class_name",),
        ("featuresDict", "features", "key", "pythonClassName"),
        ("featuresDict", "features", "label"),
    ],
)
def test_a_class_that_is_not_ours_is_not_imported(folder, marker, path, capsys):
    nested = {"pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
              "sequence": {"feature": {"pythonClassName": EVIL, "text": {}}}}  # fmt: skip
    change(folder / "features.json", *path, value=nested if path[-1] == "label" else EVIL)
    for act in (
        lambda: sources.folder(str(folder)).open(),
        lambda: sources.tfds(directory=str(folder)).open(),
        lambda: sources.tfds(name="copy", data_dir=str(folder.parent)).open(),
    ):
        with pytest.raises(ConfigError, match=r"names the class 'evil_features\.Feature'"):
            act()
    for command in ("info", "validate"):
        assert cli.main(["data", command, str(folder)]) == 2
    assert "evil_features" in capsys.readouterr().out
    assert not marker.exists()


def test_the_old_way_of_naming_a_class(folder, marker):
    (folder / "features.json").write_text(json.dumps({"type": EVIL, "content": {}}))
    with pytest.raises(ConfigError, match=r"features\.json is of TFDS before"):
        sources.folder(str(folder)).open()
    assert not marker.exists()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("splits", 0, "filepathTemplate"), "../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", "lead out"),
        (("splits", 0, "filepath_template"), "/etc/{SHARD_X_OF_Y}", "lead out"),
        (("splits", 0, "name"), "../train", "the name '../train' of a split"),
        (("name",), "../../videos", "the name '../../videos' of a dataset"),
        (("splits", 0, "shardLengths"), ["-5"], "no possible length"),
        (("splits", 0, "shardLengths"), ["0"] * 1_000_001, "at most 1,000,000"),
        (("splits",), 5, "holds no prepared"),
    ],
)
def test_what_leads_out_of_the_folder_or_is_too_large(folder, path, value, words):
    change(folder / "dataset_info.json", *path, value=value)
    with pytest.raises(ConfigError, match=words):
        check_prepared(str(folder))


def test_names_and_counts_of_features(folder):
    check_prepared(str(folder))
    for path, value in (
        (("featuresDict", "features", "../../x"), {}),
        (("featuresDict", "features", "label", "classLabel", "numClasses"), str(10**12)),
    ):
        before = (folder / "features.json").read_text()
        change(folder / "features.json", *path, value=value)
        with pytest.raises(ConfigError, match=r"of a feature|at most 1,000,000"):
            check_prepared(str(folder))
        (folder / "features.json").write_text(before)
    (folder / "features.json").write_text("[" * 10**5)
    with pytest.raises(ConfigError, match="holds no prepared"):
        check_prepared(str(folder))
    with open(folder / "features.json", "wb") as file:
        file.truncate(10 << 20)
    with pytest.raises(ConfigError, match="more than 4 MiB"):
        check_prepared(str(folder))


@pytest.mark.parametrize("text", ["[]", "{", '{"name": "videos"}', '{"identity": {"options": {}}}'])
def test_a_manifest_that_is_none_is_one_line(folder, text, capsys):
    (folder / "prepared/train.json").write_text(text)
    assert cli.main(["data", "info", str(folder)]) == 2
    assert "is not what vmae data prepare writes" in capsys.readouterr().out


def test_shards_that_are_gone_are_counted(folder):
    next(folder.glob("*-00000-of-00002")).unlink()
    source = sources.folder(str(folder)).open()
    assert (source.missing.count, source.missing.listed) == (5, 10)
    assert "00000-of-00002" in source.missing.names[0]


def test_hosts_compare_records_by_what_their_preparation_states(good, folder):
    one, two = (source.facts_of(sources.folder(str(path)).open()) for path in (good, folder))
    assert one == two
    change(folder / "prepared/train.json", "shards", 0, "sha256", value="0" * 64)
    assert source.facts_of(sources.folder(str(folder)).open()) != one


@pytest.mark.parametrize("lengths", [[], ["0", "0"]])
def test_a_split_without_examples(folder, lengths):
    change(folder / "dataset_info.json", "splits", 0, "shardLengths", value=lengths)
    with pytest.raises(ConfigError, match="has no examples in its split 'train'"):
        sources.tfds(directory=str(folder)).open()
