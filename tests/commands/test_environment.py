"""Every start leaves a row: the command without its secrets, the commit, versions and devices."""

import json
import subprocess

import pytest

from vmae_jax.commands import environment
from vmae_jax.io.paths import Workdir


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["vmae", "train", "--workdir=my runs/a"], "vmae train '--workdir=my runs/a'"),
        (["--api-key=abc"], "--api-key=***"),
        (["--hub_token", "abc", "--quiet"], "--hub_token *** --quiet"),
        (["--config.data.password=abc"], "'--config.data.password=***'"),
        (["--config.x=https://me:abc@host/a"], "'--config.x=https://***@host/a'"),
        (["--config.x=https://host/a?X-Goog-Signature=abc&b=1"], "'--config.x=https://host/a?***'"),
        (["--config.method.tokens=4", "--key=model_ema"], "--config.method.tokens=4 --key=model_ema"),
    ],
)
def test_secrets_are_left_out_of_the_command_line(arguments, shown):
    found = environment.command_line(arguments)
    assert "abc" not in found
    assert found.replace("'", "") == shown.replace("'", "")


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_the_commit_of_a_clone(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("a")
    assert environment.commit_of(file) is None, "no clone"
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = environment.commit_of(file)
    assert commit is not None
    assert len(commit) == 40
    file.write_text("b")
    assert environment.commit_of(file) == f"{commit} with changes"
    other = tmp_path / "venv" / "installed.py"
    other.parent.mkdir()
    other.write_text("")
    assert environment.commit_of(other) is None, "installed inside a clone of something else"


def test_no_program_that_a_clone_configures_is_run(tmp_path):
    (tmp_path / "own.py").write_text("a")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "config", "core.fsmonitor", f"touch {tmp_path}/ran; false")
    assert environment.commit_of(tmp_path / "own.py") is not None
    assert not (tmp_path / "ran").exists()


def test_a_row_a_start_and_one_identity_a_run(tmp_path):
    workdir = Workdir(tmp_path)
    first = environment.record(workdir, 0, ["vmae", "train", "--api-token=abc"])
    resumed = environment.record(workdir, 20, ["vmae", "train"])
    again = environment.record(workdir, 0, ["vmae", "train"])
    rows = [json.loads(line) for line in workdir.environment.read_text().splitlines()]
    assert rows == [first, resumed, again]
    assert "abc" not in workdir.environment.read_text()
    assert first["id"] == resumed["id"] != again["id"]
    assert environment.identity(workdir) == again["id"]
    assert first["versions"].keys() >= {"jax", "flax", "python", "vmae_jax"}
    assert first["devices"].startswith("8 x")
    assert resumed["step"] == 20


def test_a_config_from_another_clone_has_its_own_commit(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own.py").write_text("a")
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    row = environment.record(Workdir(tmp_path / "run"), 0, ["vmae", "train", "--config", f"{folder}/own.py:B"])
    assert row["config_commit"] == environment.commit_of(folder / "own.py")
