"""Data sets read where their owners' files lie, by training and by `vmae data prepare --dataset`."""

import pickle

import pytest
from owners_files import kinetics, place, write

from vmae_jax import spec
from vmae_jax.data import loose
from vmae_jax.data.decode import probe
from vmae_jax.spec import ConfigError


@pytest.fixture
def k400(tmp_path):
    return kinetics(tmp_path / "k400", ["b/x1", "a/x2", "a/gone"], ["a/y"], absent=("gone",))


def test_the_owners_files_are_a_source(k400, capsys):
    config = spec.call(
        "data.loose", config=spec.call("data.builders.kinetics.config", version="400", directory=str(k400))
    )
    source = spec.build(spec.from_json(spec.to_json(config))).open()
    assert source.label_names == {"label": ("a", "b")}
    assert [(source.fetch(i).key, source.fetch(i).labels) for i in range(len(source))] == [
        ("x1_000003_000013", {"label": 1}),
        ("x2_000003_000013", {"label": 0}),
    ]
    assert probe(source.fetch(1)).num_frames == 6
    assert "kinetics, train: 1 of 3 videos are not there, such as gone_000003_000013" in capsys.readouterr().err


def test_rows_travel_to_the_processes_that_prepare(k400):
    rows, absent = loose.open_dataset("kinetics:version=600", str(k400), "train")
    assert absent == [("gone_000003_000013", "is not in the folder")]
    part = pickle.loads(pickle.dumps(rows.subset([1])))
    assert (len(part), part.key(0), part.size(0) > 500) == (1, "x2_000003_000013", True)


def test_arguments_have_the_types_of_their_defaults(tmp_path):
    write(tmp_path, "results_2M_train.csv", ["videoid,name", "1,Sea"])
    write(tmp_path, "results_2M_val.csv", ["videoid,name", "2,Sky"])
    place(tmp_path, "1.mp4", "2.mp4")
    rows, _ = loose.open_dataset("webvid:version=2M,share=1.0", str(tmp_path), "validation")
    assert (rows.key(0), rows.labels(0)) == ("2", {})  # a caption is no label


@pytest.mark.parametrize(
    ("text", "split", "words"),
    [
        ("kinetic:version=400", "train", "names nothing"),
        ("kinetics:versions=400", "train", "no argument 'versions' .did you mean 'version'"),
        ("kinetics:version=450", "train", "there are 400, 600, 700, 710"),
        ("webvid:share=much", "train", "share=much: a value such as 1.0 was expected"),
        ("moving_shapes", "train", "reads no files of owners"),
        ("a b", "train", "a builder's name"),
        ("kinetics:version=400", "test", "no split 'test' there; it has train, validation"),
    ],
)
def test_mistakes(k400, text, split, words):
    with pytest.raises(ConfigError, match=words) as caught:
        loose.open_dataset(text, str(k400), split)
    assert "\n" not in str(caught.value)


def test_only_a_builders_settings_are_taken():
    with pytest.raises(ConfigError, match=r"data\.loose takes config="):
        loose.loose("kinetics")


@pytest.mark.slow
def test_prepared_from_the_owners_files(k400, tmp_path, capsys):
    """`vmae data prepare --dataset`: splits, labels, what is missing, and records that TFDS opens."""
    import json

    from vmae_jax.cli import main
    from vmae_jax.data import sources

    out = str(tmp_path / "records")
    for split in ("train", "validation"):
        command = ["data", "prepare", str(k400), "--dataset=kinetics:version=400", f"--split={split}", f"--out={out}"]
        assert main([*command, "--codec=h264", "--short-side=16", "--workers=1", "--quiet"]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert told["status"] == "ok"
        assert told["videos"] == {"train": 2, "validation": 1}[split]
    source = sources.tfds(directory=out, split="train").open()
    assert source.label_names["label"] == ("a", "b")
    assert {source.fetch(i).key: source.fetch(i).labels["label"] for i in range(2)} == {
        "kinetics/x1_000003_000013": 1,
        "kinetics/x2_000003_000013": 0,
    }
    assert len(sources.tfds(directory=out, split="validation").open()) == 1
    manifest = json.loads((tmp_path / "records" / "prepared" / "train.json").read_text())
    assert manifest["rejected"] == [["gone_000003_000013", "is not in the folder"]]
    assert manifest["name"] == "kinetics"
