"""Methods that read two views of each video, through the commands."""

import json
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from small_runs import mesh_of, parameters, write_videos

from vmae_jax.cli import main
from vmae_jax.commands.config import apply_overrides, load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.commands.measure import Measurement
from vmae_jax.commands.restore import restore
from vmae_jax.spec import ConfigError, call
from vmae_jax.types import Carried

pytestmark = pytest.mark.slow

CONFIG = "configs/siammae.py:S16,smoke"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder, 9)
    return folder


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    """A short training, with its command."""
    folder = tmp_path_factory.mktemp("run") / "siammae"
    command = ["train", f"--config={CONFIG}", f"--config.data.source.path={videos}", f"--workdir={folder}"]
    command += ["--config.data.global_batch=4", "--config.checkpoint.every.steps=2"]
    assert main(command) == 0
    return folder, command


def answer(capsys, *command):
    status = main(list(map(str, command)))
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_run_resumes_to_the_bit(run, tmp_path):
    folder, command = run
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    shutil.rmtree(again / "checkpoints" / "4")
    assert main([*command[:3], f"--workdir={again}", *command[4:]]) == 0
    for one, other in zip(*(jax.tree.leaves(restore(str(path)).params) for path in (folder, again)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_reconstructions_have_both_views_of_each_video(run, videos, tmp_path, capsys):
    status, found = answer(capsys, "reconstruct", f"--workdir={run[0]}", "--videos", videos, f"--out={tmp_path}")
    assert (status, found["clips"]) == (0, 4)
    with Image.open(tmp_path / "reconstruction.png") as picture:
        about = json.loads(picture.info["vmae"])
    assert about["rows"][:3] == ["original", "reference", "masked"]
    assert about["videos"] == [str(path) for path in sorted(videos.rglob("*.mp4"))[:4]]


def test_features_are_of_single_frames(run, videos, tmp_path, capsys):
    status, found = answer(
        capsys, "features", f"--checkpoint={run[0]}", "--videos", videos, f"--out={tmp_path}", "--tokens"
    )
    assert (status, found["videos"], found["window"], found["stride"]) == (0, 9, 1, 1)
    assert np.load(tmp_path / "class0" / "0.npz")["features"].shape == (12, 16, 32)


def test_pairs_are_needed_where_the_loss_is_computed(videos):
    config = load_config(CONFIG, [("data.source.path", str(videos))])
    config.data.sampler = call("data.clips.dense", frames=1, stride=1)
    config.data.transforms = [call("data.transforms.random_resized_crop", size=32)]
    experiment(config)  # its features can be computed
    with pytest.raises(ConfigError, match=r"reads 2 views of each video, and config.data.sampler gives 1:.*pair"):
        experiment(config, trains=True)


def test_a_held_out_loss_is_of_pairs(videos):
    config = load_config(CONFIG, [("data.source.path", str(videos)), ("data.global_batch", "4")])
    with config.ignore_type():
        config.eval.data = config.data.copy_and_resolve_references()
        config.eval.evaluators = ConfigDict({"held_out": call("eval.held_out")})
    made = experiment(config, trains=True)
    measured = Measurement(made, mesh := mesh_of(data=1))
    results = measured(parameters(made, mesh), lambda: Carried(None, {}))
    assert np.isfinite(results["held_out/loss"])
    apply_overrides(config, [("eval.data.repeat", "1")])
    config.eval.data.sampler = call("data.clips.dense", frames=1, stride=1)
    config.eval.data.transforms = [call("data.transforms.random_resized_crop", size=32)]
    with pytest.raises(ConfigError, match=r"reads 2 views of each video, and config.eval.data.sampler gives 1"):
        Measurement(experiment(config, trains=True), mesh)


def test_images_have_no_two_frames(tmp_path, capsys):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "one.png")
    command = ["train", f"--config={CONFIG}", f"--workdir={tmp_path}/run", "--config.data.source.pictures=true"]
    status, found = answer(capsys, *command, f"--config.data.source.path={tmp_path}")
    assert status == 2
    assert "the source has images" in found["error"]
    assert not (tmp_path / "run").exists()
