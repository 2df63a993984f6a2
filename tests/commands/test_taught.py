"""A run of this package becomes the teacher of another: MVD and UMT begin with its encoder."""

import jax
import numpy as np
import pytest

from vmae_jax.cli import main
from vmae_jax.io.checkpoint import read_tree


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    run = tmp_path_factory.mktemp("teacher") / "run"
    begin(run, "videomae_v2.py:B,smoke")
    return run


def begin(run, config):
    """A run that has not made a step."""
    assert main(["train", f"--config=configs/{config}", f"--workdir={run}", "--config.train.length.steps=0"]) == 0


@pytest.mark.parametrize(("config", "name"), [("mvd.py:B,video=", "video_teacher"), ("umt.py:B,teacher=", "teacher")])
def test_a_run_becomes_a_teacher(teacher, tmp_path, config, name):
    begin(tmp_path / "run", f"{config}{teacher},smoke")
    frozen = read_tree(tmp_path / "run", select="frozen")
    assert set(frozen) == {name}
    jax.tree.map(np.testing.assert_array_equal, frozen[name], read_tree(teacher, select="params/encoder"))
