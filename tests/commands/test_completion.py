"""The completion script, in the shells it is for."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from vmae_jax import cli
from vmae_jax.commands import completion

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASH = shutil.which("bash")
ZSH = shutil.which("zsh")


def complete(line: str, cwd=ROOT) -> list[str]:
    """What bash offers for a line, as readline asks for it."""
    assert BASH is not None
    script = completion.script(cli.command_line(), "bash")
    ask = f'{script}\nCOMP_LINE=$1 COMP_POINT=${{#1}}; _vmae; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run([BASH, "-c", ask, "bash", line], cwd=cwd, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return sorted(filter(None, done.stdout.split("\n")))


@pytest.mark.skipif(BASH is None, reason="no bash on this machine")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("vmae tr", ["train"]),
        ("vmae rec", ["reconstruct"]),
        ("vmae data ", ["--help", "info", "prepare", "serve", "validate"]),
        ("vmae data prepare --cod", ["--codec="]),
        ("vmae train --qu", ["--quiet"]),
        ("vmae train --workdir=x --v", ["--verbose"]),
        ("vmae report --", ["--help", "--out=", "--workdir="]),
        ("vmae train --config=configs/quick", ["configs/quickstart.py"]),
        ("vmae train --config=configs/comm", []),
        ("vmae train --config.seed=", []),
        ("vmae nothing --", ["--help"]),
    ],
)
def test_bash(line, offered):
    assert complete(line) == offered


@pytest.mark.skipif(BASH is None, reason="no bash on this machine")
def test_configs_of_ones_own_are_found_and_files_with_spaces_kept(tmp_path):
    (tmp_path / "my config.py").write_text("")
    (tmp_path / "my notes.txt").write_text("")
    (tmp_path / "my folder").mkdir()
    assert complete("vmae train --config=my", tmp_path) == ["my config.py", "my folder/"]
    assert complete("vmae features --videos=my", tmp_path) == ["my config.py", "my folder", "my notes.txt"]
    assert complete("vmae data validate my", tmp_path) == ["my config.py", "my folder", "my notes.txt"]


@pytest.mark.skipif(ZSH is None, reason="no zsh on this machine")
def test_zsh(tmp_path):
    """An interactive zsh, whose Tab key completes the word."""
    assert ZSH is not None
    (tmp_path / "completion").write_text(completion.script(cli.command_line(), "zsh"))
    drive = f"""
zmodload zsh/zpty
zpty -b shell {ZSH} -f -i
zpty -w shell "cd {ROOT}; vmae() {{ echo RAN-\\$1; }}; source {tmp_path}/completion; echo REA''DY"
zpty -r shell seen '*READY*'
zpty -w -n shell $'vmae recons\\t\\n'
zpty -r shell seen '*RAN-reconstruct*' && echo completed
zpty -d shell
"""
    done = subprocess.run([ZSH, "-f", "-c", drive], capture_output=True, text=True, check=False, timeout=30)
    assert "completed" in done.stdout


def test_every_command_and_option_is_in_it():
    script = completion.script(cli.command_line(), "bash")
    for command in ("train", "eval", "report", "data validate", "bench step", "completion"):
        assert f'" {command}") choices="' in script, command
    assert "{" + "known" not in script


def test_the_command_prints_the_script_alone():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vmae_jax", "completion"]
    done = subprocess.run([*command, "bash"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("complete -F _vmae vmae")
    done = subprocess.run([*command, "fish"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "use bash or zsh" in done.stderr
