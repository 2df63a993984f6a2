"""A folder of videos with every kind of name goes from training to features, records, report and evaluation."""

import json
import os
import subprocess
import sys

import pytest
from odd_names import NAMES, odd_folder

from tests import quick_xla
from vmae_jax.names import from_text

RUN = """
import os, sys
from vmae_jax.cli import main
for line in sys.stdin.read().split("\\n\\n"):
    status = main(line.split("\\n"))
    assert status in (0, 1), (line, status)
"""
DATA = ("--config.data.source.path=videos", "--config.eval.data.source.path=videos")
COMMANDS = {
    "train": ("train", "--config=configs/quickstart.py:smoke", "--workdir=run", *DATA,
              "--config.train.length.steps=3", "--config.train.pictures_every=none", "--quiet"),
    "report": ("report", "--workdir=run"),
    "features": ("features", "--checkpoint=run", "--videos=videos", "--out=features"),
    "reconstruct": ("reconstruct", "--checkpoint=run", "--videos=videos", "--out=pictures"),
    "eval": ("eval", "--workdir=run"),
    "validate": ("data", "validate", "videos", "--json=found.json", "--quiet"),
    "prepare": ("data", "prepare", "videos", "--out=records", "--labels=folders", "--quiet"),
    "info": ("data", "info", "records"),
}  # fmt: skip


@pytest.mark.slow
def test_every_command(tmp_path):
    videos = odd_folder(tmp_path / "videos")
    (videos / os.fsdecode(b"a\nb") / os.fsdecode(b"br\xffken\n.mp4")).write_bytes(b"no video")
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600,
        env=quick_xla.on_devices(1) | {"XDG_CACHE_HOME": str(tmp_path / "home"),
                                       "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        input="\n\n".join("\n".join(command) for command in COMMANDS.values()),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"status"')]
    found = dict(zip(COMMANDS, lines, strict=True))
    assert {name: one["status"] for name, one in found.items()} == dict.fromkeys(COMMANDS, "ok") | {"validate": "error"}
    assert found["validate"]["broken"] == 1
    assert [from_text(one["key"]) for one in json.loads((tmp_path / "found.json").read_text())["found"]] == [
        os.fsdecode(b"a\nb/br\xffken\n.mp4")
    ]
    assert (found["features"]["videos"], found["features"]["missing"]) == (len(NAMES), 0)
    assert (found["prepare"]["videos"], found["prepare"]["rejected"]) == (len(NAMES), 1)
    assert len(list((tmp_path / "features").rglob("*.npz"))) == len(NAMES)
    assert b"</html>" in (tmp_path / "run" / "report.html").read_bytes()


@pytest.mark.parametrize("option", ["workdir", "out"])
def test_a_path_to_write_that_is_not_utf_8_is_refused_first(tmp_path, monkeypatch, capsys, option):
    from vmae_jax.cli import main

    monkeypatch.chdir(tmp_path)
    given = os.fsdecode(b"caf\xe9")
    command = COMMANDS["train" if option == "workdir" else "prepare"]
    assert main([*command, f"--{option}={given}"]) == 2
    assert json.loads(capsys.readouterr().out)["error"].startswith(rf"--{option}=caf\xe9: ")
    assert not list(tmp_path.iterdir())
