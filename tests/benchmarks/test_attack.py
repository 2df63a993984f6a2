"""`benchmarks/attack.py`: some cases of each category are survived, and it would notice one that is not."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

PLANTED = """
import os, signal, socket, subprocess, sys, time
from benchmarks import attack
from benchmarks.attacks.room import Found

def fails(what):
    def case(number, room):
        def act():
            import json
            if what == "status":
                print(json.dumps({"status": "error", "error": "one line"}))
                return 1
            if what == "two lines":
                print(json.dumps({"status": "error", "error": "two\\nlines"}))
                return 2
            if what == "traceback":
                raise RuntimeError("planted")
            if what == "runs":
                os.system("true")
            if what == "writes":
                open(room.outside.parent.parent / "written", "w").close()
            if what == "marker":
                room.marker.touch()
            if what == "temporary":
                (room.tmp / "left").touch()
            if what == "process":
                subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            if what == "connects":
                socket.create_connection(("127.0.0.1", room.port)).close()
            if what == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            return 0
        if what == "case":
            raise KeyError("planted")
        return Found(what, tuple(room.problems(room.call(act), {0, 2})))
    return attack.Category(case, 1)

from benchmarks.attacks import room
room.LEAVE, room.IMPORTS = 0.5, ()
NAMES = ["nothing", "status", "two lines", "traceback", "runs", "writes", "marker", "temporary", "process", "connects",
         "killed", "case"]
attack.CATEGORIES.clear()
attack.CATEGORIES.update({name: fails(name) for name in NAMES})
sys.exit(attack.main(["--out=planted.jsonl"]))
"""
QUICK = ("configs", "checkpoints", "strays among steps", "forged tables", "odd files", "archives", "pages", "clocks",
         "hosts that differ", "sides", "tables and lists", "annotations")  # fmt: skip
NOTICED = {
    "nothing": "",
    "status": "status 1",
    "two lines": "without one line",
    "traceback": "planted",
    "runs": "it did os.system",
    "writes": "for writing",
    "marker": "outside there is ['marker'",
    "temporary": "a temporary file was left: left",
    "process": "a process is left over",
    "connects": "it connected",
    "killed": "status 137",
    "case": "the case itself failed: KeyError",
}


def python(folder, *arguments, **environment):
    """Run Python in a folder; no test's own JAX is forked."""
    keep = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env=keep | environment, timeout=580,
    )  # fmt: skip


def results(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_a_case_of_each_category_is_survived_and_is_not_run_again(tmp_path):
    arguments = ("-m", "benchmarks.attack", "--count=1", "--seed=3", "--out=out.jsonl")
    done = python(tmp_path, *arguments, ATTACK_BUILDS="300")
    found = results(tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    assert len({one["category"] for one in found}) == len(found) == 29
    assert all(one["survived"] == one["tried"] for one in found)
    before = (tmp_path / "out.jsonl").read_text()
    with (tmp_path / "out.jsonl").open("a") as file:
        file.write('{"category": "con')  # stopped in the middle of a line
    again = python(tmp_path, *arguments, "--minutes=0")
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert (tmp_path / "out.jsonl").read_text() == before


@pytest.mark.slow
def test_quick_cases_of_each_folder_of_attacks(tmp_path):
    only = [f"--only={name}" for name in QUICK]
    done = python(tmp_path, "-m", "benchmarks.attack", "--count=2", "--out=out.jsonl", *only)
    assert done.returncode == 0, done.stderr
    assert len(results(tmp_path / "out.jsonl")) == 2 * len(QUICK)


def test_what_is_not_survived_is_reported(tmp_path):
    """A wrong exit status, more than a line, a traceback, and everything that leaves the room."""
    done = python(tmp_path, "-c", PLANTED)
    found = {one["category"]: one for one in results(tmp_path / "planted.jsonl")}
    assert found.keys() == NOTICED.keys()
    for name, words in NOTICED.items():
        assert words in found[name]["problem"], (name, found[name])
        assert found[name]["survived"] == (name == "nothing"), found[name]
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "| all | 12 | 12 | 1 |"
    assert len(done.stderr.splitlines()) >= 11
