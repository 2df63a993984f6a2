"""Packages of the user: registered like ours, found in the current folder, recorded in the workdir."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from vmae_jax import plugins, registry
from vmae_jax.configs import quickstart
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.paths import Workdir
from vmae_jax.io.run_config import read_config, write_config
from vmae_jax.spec import ConfigError, build, call, to_json

ROOT = pathlib.Path(__file__).resolve().parents[1]
MASK = '''
from vmae_jax.masking.core import Masker
from vmae_jax.masking.tube import tube
from vmae_jax.registry import register

@register("mask")
def checkerboard() -> Masker:
    """A mask of the user."""
    return tube(0.5)

def unregistered() -> Masker:
    return tube(0.5)
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with the plugin `users_masks`; the process forgets it afterwards."""
    (tmp_path / "users_masks").mkdir()
    (tmp_path / "users_masks" / "__init__.py").write_text("")
    (tmp_path / "users_masks" / "board.py").write_text(MASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry and entry != str(tmp_path)])
    monkeypatch.setattr(registry, "_admitted", set())
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "users_masks"]:
        del sys.modules[name]


def run_of(folder, *, given=True):
    """A workdir whose config names the plugin's mask."""
    config: Any = quickstart.get_config("smoke")
    config.method.encoder_mask = call("users_masks.board.checkerboard")
    workdir = Workdir(folder / "run")
    workdir.path.mkdir()
    write_config(workdir, config)
    if not given:
        registry._admitted.clear()
    return workdir


def test_a_plugin_of_the_current_folder_is_found_and_registers_as_ours_do(here):
    with pytest.raises(ConfigError, match="give --plugins=users_masks"):
        build({"call": "users_masks.board.checkerboard"})
    assert "users_masks" not in sys.modules
    plugins.allow_plugins(["users_masks"])
    assert "users_masks" not in sys.modules  # before a config names it
    assert build(call("users_masks.board.checkerboard"), "mask").keep
    with pytest.raises(ConfigError, match=r"names nothing that users_masks.board registers; there is checkerboard"):
        build({"call": "users_masks.board.unregistered"})
    with pytest.raises(ConfigError, match=r"names nothing that users_masks.board registers"):
        build({"call": "users_masks.board.tube"})  # ours has one name only


@pytest.mark.parametrize("name", ["data", "masking", "vmae_jax", "no_such_package", "a.b", "../x", "_x", "ünicode"])
def test_other_names_are_refused(name, here):
    (here / "data").mkdir()
    with pytest.raises(ConfigError, match="--plugins="):
        plugins.allow_plugins([name])


def test_a_workdir_records_its_plugins_and_asks_for_them(here, caplog):
    plugins.allow_plugins(["users_masks"])
    workdir = run_of(here)
    assert list(json.loads(workdir.plugins_json.read_text())) == ["users_masks"]
    assert to_json(read_config(workdir)) == workdir.config_json.read_text()
    assert not caplog.records
    (here / "users_masks" / "more.py").write_text("x = 1\n")
    read_config(workdir)
    read_config(workdir)
    assert [record.getMessage() for record in caplog.records] == [
        f"{workdir.path}: the source of the plugin users_masks has changed since this run was made"
    ]
    registry._admitted.clear()
    with pytest.raises(ConfigError, match=r"run was made with --plugins=users_masks: give the same option"):
        read_config(workdir)


@pytest.mark.parametrize("content", ["[]", "{", '{"../x": "1"}', '{"os system": 1}', "[" * 100_000])
def test_a_damaged_record_is_refused(content, here):
    plugins.allow_plugins(["users_masks"])
    workdir = run_of(here)
    workdir.plugins_json.write_text(content)
    with pytest.raises(ConfigError, match=r"plugins.json: damaged"):
        read_config(workdir)


def test_a_config_without_plugins_records_none(here):
    workdir = Workdir(here / "run")
    workdir.path.mkdir()
    write_config(workdir, quickstart.get_config("smoke"))
    assert not workdir.plugins_json.exists()


@pytest.mark.slow
def test_a_workdir_alone_imports_no_plugin(here):
    """Neither the record nor the config: the package that they name would write a file."""
    plugins.allow_plugins(["users_masks"])
    workdir = run_of(here, given=False)
    (here / "users_masks" / "__init__.py").write_text(f"open({str(here / 'marker')!r}, 'w')")
    with contextlib.closing(Checkpoints(workdir.checkpoints, asynchronous=False)) as saver:
        saver.save(1, {"params": np.zeros(1, np.float32)}, {})
    for command in ("eval", "features", "reconstruct", "export", "train"):
        more = {"features": ["--videos=x", "--out=o"], "reconstruct": ["--out=o"], "export": ["--out=o", "--format=hf"]}
        status, error = vmae(here, command, f"--workdir={workdir.path}", *more.get(command, []))
        assert status == 2
        assert "give the same option" in error
    assert not (here / "marker").exists()


def test_the_console_script_finds_a_plugin_of_the_current_folder(here):
    plugins.allow_plugins(["users_masks"])
    workdir = run_of(here)
    (here / "run" / "checkpoints" / "0").mkdir(parents=True)
    # What follows is about the checkpoint, which is empty: the config was accepted.
    status, error = vmae(here, "eval", "--plugins=users_masks", f"--workdir={workdir.path}")
    assert status != 0
    assert "plugins" not in error


def vmae(here, *arguments):
    """The command as its console script runs it: the current folder is not on the path."""
    code = "import sys; from vmae_jax.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], cwd=here, capture_output=True, text=True, check=False,
        timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout.splitlines()[-1])["error"]
