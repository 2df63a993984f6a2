"""`benchmarks/chaos.py` damages what readers of a checkpoint need, and sees whether they notice."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
# In a process of its own, which forks before anything starts a thread.
PROGRAM = """
import json, os, pathlib, sys
from benchmarks import chaos

out = pathlib.Path(sys.argv[1])
made = chaos.Chaos(out, rounds=1, seed=int(sys.argv[2]), reach=1, mounted=False)
pid = os.fork()
if pid == 0:
    import numpy as np
    from vmae_jax.io.checkpoint import Checkpoints
    saver = Checkpoints(made.work / "checkpoints", asynchronous=False)
    for step in (4, 8):
        saver.save(step, {"params": {"a": np.arange(5000.0), "b": np.ones(3, np.int32)}}, {"step": step})
    saver.close()
    os._exit(0)
assert made.wait(pid) == 0
if sys.argv[3] == "blind":
    made.prints = lambda step: "the same"
act = lambda file: os.truncate(file, file.stat().st_size // 2)
made.damage_what_is_read(8, pathlib.Path.unlink if sys.argv[3] == "deleted" else act)
print(json.dumps({"noticed": made.noticed, "problems": made.problems, "good": made.prints(4).count("params/")}))
"""


def damaged(tmp_path, seed, how):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / how), str(seed), how]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("seed", "how"), [(0, "truncated"), (1, "deleted")])
def test_damage_is_noticed_and_the_step_before_is_whole(tmp_path, seed, how):
    found = damaged(tmp_path, seed, how)
    assert sum(found["noticed"].values()) == 1
    assert set(found["noticed"]) <= {"damaged", "not listed"}
    assert found["problems"] == []
    assert found["good"] == 2


def test_a_reader_that_notices_nothing_is_a_problem(tmp_path):
    found = damaged(tmp_path, 0, "blind")
    assert found["problems"] == ["checkpoint 8: no reader needs any of its files"]
