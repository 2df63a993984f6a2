"""`vmae eval` and the evaluation and pictures of `vmae train` as two real processes: what one alone would find."""

import csv
import json
import pathlib
import shutil

import numpy as np
import pytest
from real_processes import run
from small_runs import config_of, save_run, write_videos

from vmae_jax.spec import call

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Seven videos, and one that is broken."""
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder)
    (folder / "class1" / "a.mp4").write_bytes(b"no video")
    return folder


def test_two_processes_find_what_one_does(videos, tmp_path, forks):
    evaluators = {"views": call("eval.multiview"), "knn": call("eval.knn.retrieval"), "loss": call("eval.held_out")}
    save_run(tmp_path / "alone", config_of(videos, evaluators))
    shutil.copytree(tmp_path / "alone", tmp_path / "pod")
    [alone] = run(forks, 1, "eval", f"--checkpoint={tmp_path}/alone")
    pod = run(forks, 2, "eval", f"--checkpoint={tmp_path}/pod", "--limit=evaluate=250")
    assert (alone["views/videos"], alone["views/broken"], alone["loss/clips"]) == (7, 1, 14)
    files = pod[0].pop("files"), alone.pop("files")
    assert [pathlib.Path(file).name for file in files[0]] == [pathlib.Path(file).name for file in files[1]]
    assert "files" not in pod[1], "one of them writes"
    for result in pod:
        assert result.keys() == alone.keys()
        for name, value in alone.items():
            assert result[name] == (pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value)
    folders = [tmp_path / name / "eval" / "00000005" for name in ("alone", "pod")]
    one, other = (np.load(folder / "views_predictions.npz") for folder in folders)
    assert one["index"].tolist() == other["index"].tolist()
    np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-5)
    one, other = (list(csv.DictReader((folder / "broken.csv").open())) for folder in folders)
    assert one == other
    assert len(one) == 1
    rows = [json.loads(line) for line in (tmp_path / "pod" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 1


def test_a_training_of_two_processes_draws_and_evaluates(tmp_path, forks):
    command = ["train", "--config=configs/quickstart.py:smoke", "--quiet", "--config.train.length.steps=2"]
    command += ["--config.train.pictures_every.steps=1", "--config.checkpoint.every.steps=2"]
    [alone] = run(forks, 1, *command, f"--workdir={tmp_path}/alone")
    pod = run(forks, 2, *command, f"--workdir={tmp_path}/pod")
    assert len(list((tmp_path / "pod" / "media").glob("*.png"))) == 2
    for result in pod:
        assert result["metrics"]["held_out/loss"] == pytest.approx(alone["metrics"]["held_out/loss"], rel=1e-4)
