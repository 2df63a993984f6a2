"""The stages one after the other, as a user types them: pre-training, post-pre-training, fine-tuning, distillation."""

import csv
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

from tests import quick_xla
from tests.forks import program as write_program
from vmae_jax.io.checkpoint import read_tree

ROOT = pathlib.Path(__file__).resolve().parents[2]

EVALUATION = '''
"""Every evaluator, on drawn videos."""

from ml_collections import ConfigDict

from vmae_jax.configs import finetune
from vmae_jax.spec import call


def get_config(arguments=None):
    config = finetune.get_config("B,smoke,weights=none")
    train = config.data.copy_and_resolve_references()
    train.update(repeat=1, shuffle=False)
    train.transforms = [call("data.transforms.center_crop", size=32)]
    config.eval.evaluators = ConfigDict(
        {
            "test": call("eval.multiview"),
            "knn": call("eval.knn", train=train, k=3),
            "probe": call("eval.probe", train=train, iterations=20),
            "retrieval": call("eval.knn.retrieval", ranks=[1, 5]),
            "attentive": call("eval.attentive_probe", train=train, pool=call("models.pooling.attentive"), epochs=2),
            "own": call("eval.held_out"),
        }
    )
    return config
'''


@pytest.fixture(scope="module")
def vmae(tmp_path_factory, forks):
    home = tmp_path_factory.mktemp("home")
    keep = {key: value for key, value in os.environ.items() if key != "VMAE_CACHE"}
    environment = quick_xla.on_devices(1, keep) | {"XDG_CACHE_HOME": str(home)}

    program = write_program(home / "vmae", forks)

    def run(*arguments: str, status: int = 0) -> dict:
        done = subprocess.run(
            [program, *arguments], env=environment, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300
        )
        assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1]) | {"log": done.stderr}

    return run


def train(vmae, config, workdir, *more, status=0):
    return vmae("train", f"--config=configs/{config}", f"--workdir={workdir}", *more, status=status)


@pytest.mark.slow
def test_the_whole_progression(vmae, tmp_path):
    """Each stage begins from the one before it; evaluation counts every video once; a teacher is not touched."""
    train(vmae, "videomae_v2.py:B,smoke", tmp_path / "pretrained")
    post = train(vmae, f"post_pretrain.py:B,smoke,weights={tmp_path}/pretrained", tmp_path / "k710")
    assert "params/encoder: " in post["log"]
    assert "0 as initialized" in post["log"]
    tuned = train(vmae, f"finetune.py:g,ucf101,from=k710,smoke,weights={tmp_path}/k710", tmp_path / "tuned")
    kept = json.loads((tmp_path / "tuned" / "init_from.json").read_text())["params"]
    assert kept["arrays"]["head/kernel"] == {"became": "fresh", "how": "left out by skip"}
    assert tuned["metrics"]["test/videos"] == 16  # one batch of 8 videos would not show it

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "evaluation.py").write_text(EVALUATION)
    found = vmae(
        "eval", f"--checkpoint={tmp_path}/tuned", f"--config={tmp_path}/mine/evaluation.py",
        "--config.eval.data.global_batch=3",  # does not divide the videos
    )  # fmt: skip
    assert found["test/videos"] == found["knn/videos"] == found["probe/videos"] == found["retrieval/videos"] == 16
    assert found["knn/top1"] <= 1
    assert found["attentive/videos"] == found["own/clips"] / 10 == 16  # five clips of two crops of each
    [file] = [file for file in found["files"] if file.endswith("test_videos.csv")]
    with open(file) as lines:
        assert [int(row["video"]) for row in csv.DictReader(lines)] == list(range(16))

    pair = f"weights={tmp_path}/k710,teacher={tmp_path}/k710"
    train(vmae, f"distill.py:S,smoke,{pair}", tmp_path / "student")
    teacher, saved = (read_tree(tmp_path / run, select=part) for run, part in
                      (("k710", "params"), ("student", "frozen/teacher")))  # fmt: skip
    for a, b in zip(_leaves(teacher), _leaves(saved), strict=True):
        np.testing.assert_array_equal(a, b)
    judged = vmae("eval", f"--checkpoint={tmp_path}/student", f"--config={tmp_path}/mine/evaluation.py")
    # Against the teacher of the checkpoint, whose weights the student began from.
    assert judged["own/loss/kl"] == pytest.approx(0, abs=1e-6)
    assert judged["test/videos"] == 16
    tuned = train(
        vmae, f"finetune.py:S,k400,v1,smoke,weights={tmp_path}/student", tmp_path / "student tuned",
        "--config.init_from.params/encoder.select=params/encoder",
    )  # fmt: skip
    assert "params/encoder: " in tuned["log"]
    videos = tmp_path / "nothing here.mp4"
    videos.write_bytes(b"")
    out = f"--out={tmp_path}/features"
    mistake = vmae("features", f"--checkpoint={tmp_path}/student", f"--videos={videos}", out, status=2)
    assert "none of the 1 videos can be read" in mistake["error"]


def _leaves(tree):
    return [
        leaf
        for name in sorted(tree)
        for leaf in (_leaves(tree[name]) if isinstance(tree[name], dict) else [tree[name]])
    ]


@pytest.mark.slow
def test_a_label_that_is_no_class_stops_before_it_is_trained_on(vmae, tmp_path):
    train(vmae, "videomae_v2.py:B,smoke", tmp_path / "pretrained")
    answer = train(
        vmae, f"finetune.py:B,smoke,weights={tmp_path}/pretrained", tmp_path / "run", "--config.method.classes=3",
        status=2,
    )  # fmt: skip
    assert "the data has 10 classes" in answer["error"]
    assert "the model 3: set config.method.classes" in answer["error"]
    missing = train(vmae, "finetune.py:B,smoke", tmp_path / "other", status=2)
    assert "needs path (--config.init_from.params/encoder.path=WORKDIR)" in missing["error"]
