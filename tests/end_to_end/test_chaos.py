"""A few rounds of `benchmarks/chaos.py`: whatever happens, the run ends as if nothing had."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_some_rounds_of_chaos_change_nothing(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "chaos.py"), "--rounds=5", "--seed=3", "--steps-a-round=4"]
    done = subprocess.run(
        [*command, "--seconds=300", f"--out={tmp_path}/chaos"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.stdout, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, result
    assert result["equal"]
    assert result["problems"] == []
    assert result["rounds"] >= 1
    damage = sum(result["kinds"].get(kind, 0) for kind in ("truncated", "deleted", "flipped"))
    assert result["damaged"] == sum(result["noticed"].values()) == damage, "damage is done to what is read"
