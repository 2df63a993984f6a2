"""Label propagation by `vmae eval` and while training: no held-out videos, any devices, metrics, pictures, mistakes."""

import csv
import json

import jax
import pytest
from small_runs import config_of, mesh_of, parameters, save_run, write_videos

from tests.data import benchmark_files
from vmae_jax.commands import evaluate, train
from vmae_jax.commands.experiment import experiment
from vmae_jax.commands.measure import Measurement
from vmae_jax.eval import report
from vmae_jax.io.paths import Workdir
from vmae_jax.spec import ConfigError, call
from vmae_jax.types import Carried

SMALL = [("eval.evaluators.davis.size", "[48, 80]"), ("eval.evaluators.davis.context", "2")]


@pytest.fixture
def run(tmp_path):
    """A workdir with a checkpoint of a tiny classifier, whose own config evaluates nothing, and its videos."""
    write_videos(tmp_path / "videos", 3)
    config = config_of(tmp_path / "videos", {}, train={"ema_decay": 0.9})
    workdir, _, _ = save_run(tmp_path / "run", config)
    return workdir


def davis(folder, **more):
    return call("eval.propagation", sequences=call("data.sequences.davis", directory=str(folder)), size=[48, 80],
                context=2, **more)  # fmt: skip


def test_eval_records_metrics_tables_and_pictures(run, tmp_path):
    benchmark_files.davis(tmp_path / "DAVIS")
    result = evaluate.run(str(run.path), config=f"configs/propagation.py:davis,data={tmp_path}/DAVIS", overrides=SMALL)
    assert result["davis/objects"] == 2
    assert 0 < result["davis/jf_mean"] <= 1
    [row] = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert (row["kind"], row["davis/jf_mean"]) == ("eval", result["davis/jf_mean"])
    names = {path.rpartition("/")[2]: path for path in result["files"]}
    assert sorted(names) == ["davis_masks_00.png", "davis_masks_01.png", "davis_videos.csv"]
    with open(names["davis_videos.csv"]) as file:
        assert [row["video"] for row in csv.DictReader(file)] == ["bear", "swing"]
    page = report.write(str(run.path)).read_text()
    assert "davis masks 00" in page
    assert "davis/jf_mean" in page


@pytest.mark.parametrize("name", ["vip", "jhmdb"])
def test_eval_of_the_other_benchmarks(run, tmp_path, name):
    getattr(benchmark_files, name)(tmp_path / name)
    size, metric = {"vip": ("[128]", "miou"), "jhmdb": ("[64, 64]", "pck_0.2")}[name]
    overrides = [(f"eval.evaluators.{name}.size", size), (f"eval.evaluators.{name}.context", "2")]
    result = evaluate.run(
        str(run.path), config=f"configs/propagation.py:{name},data={tmp_path}/{name}", overrides=overrides
    )
    assert result[f"{name}/{metric}"] > 0


def test_devices_share_the_frames_and_change_nothing(run, tmp_path):
    config = config_of(tmp_path / "videos", {"davis": davis(benchmark_files.davis(tmp_path / "DAVIS", frames=5))})
    config.eval.data = None
    made = experiment(config)
    found = [
        Measurement(made, mesh)(parameters(made, mesh), lambda: Carried(None, {}))
        for mesh in (mesh_of(data=1), mesh_of(data=2, fsdp=2, tensor=2))
    ]
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, abs=2e-3), name
    assert jax.device_count() == 8


def test_training_evaluates_without_held_out_videos(run, tmp_path):
    config = config_of(tmp_path / "videos", {"davis": davis(benchmark_files.davis(tmp_path / "DAVIS"), pictures=0)})
    config.eval.data = None
    done = train.run(config, Workdir(tmp_path / "trained"), progress=False)
    rows = [json.loads(line) for line in (tmp_path / "trained" / "metrics.jsonl").read_text().splitlines()]
    assert [row["davis/objects"] for row in rows if row["kind"] == "eval"] == [2]
    assert done["status"] == "done"


MISTAKES = {
    "folder": ({}, "/nowhere", r"evaluators\.davis\.sequences: davis: there is no folder"),
    "size": ({"size": [50, 80]}, "DAVIS", r"evaluators\.davis: .*does not divide"),
    "topk": ({"topk": 1000}, "DAVIS", r"evaluators\.davis: topk=1000"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_reported_before_training(run, tmp_path, name):
    more, folder, message = MISTAKES[name]
    evaluator = davis(tmp_path / folder)
    evaluator.update(more)
    benchmark_files.davis(tmp_path / "DAVIS")
    config = config_of(tmp_path / "videos", {"davis": evaluator})
    with pytest.raises(ConfigError, match=message) as error:
        train.run(config, Workdir(tmp_path / "trained"), progress=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "trained").exists()


def test_a_damaged_picture_ends_the_evaluation_in_one_line(run, tmp_path):
    root = benchmark_files.davis(tmp_path / "DAVIS")
    (root / "JPEGImages/480p/swing/00004.jpg").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"evaluators\.davis: .*swing/00004\.jpg: "):
        evaluate.run(str(run.path), config=f"configs/propagation.py:davis,data={root}", overrides=SMALL)


def test_an_evaluator_of_held_out_videos_still_needs_them(run):
    with pytest.raises(ConfigError, match="its config evaluates nothing"):
        evaluate.run(str(run.path), overrides=[("eval.data", "None")])
