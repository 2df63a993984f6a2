"""A stranger's workdir: its config.json runs, writes and imports nothing, whatever it names."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.attacks.configs import COMMANDS
from vmae_jax import cli
from vmae_jax.configs import quickstart
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.spec import ConfigError, to_json
from vmae_jax.weights.loading import load

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A workdir `run` of the current folder: the quick start's config, as plain data, and a checkpoint of one array."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"no video")
    saver = Checkpoints(folder / "checkpoints", asynchronous=False)
    saver.save(0, {"params": {"x": np.zeros(1)}}, {})
    saver.close()
    return folder, json.loads(to_json(quickstart.get_config("smoke")))


def command(marker):
    """The call that the report of the hole has."""
    call = {"call": "runtime.supervisor.supervise", "command": ["sh", "-c", f"id > {marker}"], "processes": 1}
    return call | {"restarts": 0, "grace": 1.0, "wait": 1.0}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_in_the_config_is_refused_in_one_line(name, run, tmp_path, capsys):
    """As the seed, which is no call at all, and among the objectives, where `export` builds calls too."""
    folder, config = run
    marker = tmp_path / "marker"
    attacks = {"names no component of vmae_jax": ["method", "objectives", "x"]}
    if name != "export":  # which builds the method alone
        attacks["config.seed must be a whole number"] = ["seed"]
    for message, (*parents, last) in attacks.items():
        attacked = json.loads(json.dumps(config))
        node = attacked
        for key in parents:
            node = node[key]
        node[last] = command(marker)
        (folder / "config.json").write_text(json.dumps(attacked))
        assert cli.main(COMMANDS[name]) == 2
        assert message in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
        assert not marker.exists()


def test_the_command_line_refuses_it_too(run, tmp_path):
    folder, config = run
    config["seed"] = command(tmp_path / "marker")
    (folder / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "vmae_jax", *COMMANDS["eval"]], cwd=tmp_path, capture_output=True, text=True,
        check=False, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "vmae: config.seed must be a whole number of at most 64 bits, got call: "
    )
    assert not (tmp_path / "marker").exists()


def test_load_refuses_it_too(run, tmp_path):
    folder, config = run
    config["method"]["objectives"]["x"] = command(tmp_path / "marker")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="names no component"):
        load(folder)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("method", 5),
        ("method", {"call": "masking.tube", "ratio": 0.5}),
        ("data", {"call": "data.sources.folder", "path": "x"}),
        ("train", "x"),
        ("eval", []),
        ("mesh", {"call": "train.settings.Training", "length": {"steps": 1}}),
        ("init_from", 7),
        ("init_from", {"params": {"call": "masking.tube", "ratio": 0.5}}),
        ("seed", True),
        ("seed", 10**30),
        ("extra", 1),
    ],
)
def test_a_section_accepts_its_own_kind_only(section, value, run, capsys):
    folder, config = run
    (folder / "config.json").write_text(json.dumps(config | {section: value}))
    assert cli.main(COMMANDS["features"]) == 2
    assert section in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    if section == "method":
        assert cli.main(COMMANDS["export"]) == 2
