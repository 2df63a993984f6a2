"""Restarts what resumes, and nothing else; several processes are one job."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def supervise(code, *options, **environment):
    command = [sys.executable, "-m", "vmae_jax.runtime.supervisor", "--wait=0.05", *options]
    return subprocess.Popen(
        [*command, "--", sys.executable, "-c", code],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment,
    )  # fmt: skip


COUNTED = """
import os, pathlib, sys
file = pathlib.Path(os.environ["COUNT"])
turn = int(file.read_text()) if file.exists() else 0
file.write_text(str(turn + 1))
end = os.environ["ENDS"].split(",")[min(turn, len(os.environ["ENDS"].split(",")) - 1)]
os.kill(os.getpid(), int(end[1:])) if end[0] == "s" else sys.exit(int(end))
"""


@pytest.mark.parametrize(
    ("ends", "status", "turns"),
    [
        ("0", 0, 1),
        ("75,s9,s6,134,137,143,0", 0, 7),
        ("2", 2, 1),
        ("75,1", 1, 2),
        ("75", 75, 4),
    ],
)
def test_which_ends_are_restarted(tmp_path, ends, status, turns):
    restarts = 3 if ends == "75" else 10
    job = supervise(COUNTED, f"--restarts={restarts}", COUNT=str(tmp_path / "n"), ENDS=ends)
    job.communicate(timeout=60)
    assert job.returncode == status
    assert int((tmp_path / "n").read_text()) == turns


def test_a_request_to_stop_reaches_the_processes_and_is_not_undone(tmp_path):
    code = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
time.sleep(60)
"""
    job = supervise(code)
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    job.send_signal(signal.SIGTERM)
    _, result = job.communicate(timeout=60)
    assert job.returncode == 75
    assert "restart" not in result


def test_the_others_are_ended_when_one_is_lost(tmp_path):
    code = f"""
import os, pathlib, signal, sys, time
rank, folder = os.environ["VMAE_PROCESS"], pathlib.Path({str(tmp_path)!r})
assert os.environ["VMAE_PROCESSES"] == "2" and ":" in os.environ["VMAE_COORDINATOR"]
turn = len(list(folder.glob(rank + "-*")))
(folder / f"{{rank}}-{{turn}}").touch()
if turn == 1:
    print("result of", rank)
    sys.exit(0)
os.kill(os.getpid(), signal.SIGKILL) if rank == "1" else time.sleep(60)
"""
    began = time.monotonic()
    job = supervise(code, "--processes=2", "--grace=0.5")
    out, result = job.communicate(timeout=60)
    assert job.returncode == 0, result
    assert time.monotonic() - began < 30
    assert out == "result of 0\n"
    assert "process 1 ended with status 137" in result
    assert len(list(tmp_path.iterdir())) == 4


def test_a_pod_on_this_machine_states_what_it_would_do_and_refuses_nonsense():
    script = ["bash", str(ROOT / "launch" / "local_pod.sh")]
    shown = subprocess.run(
        [*script, "--dry-run", "2", "train", "--workdir=a b"], capture_output=True, text=True, check=True
    )
    assert "--processes=2" in shown.stdout
    assert "vmae train '--workdir=a b'" in shown.stdout
    for wrong, message in (
        ([], "usage:"),
        (["2"], "usage:"),
        (["two", "train"], "N=two"),
        (["2", "train"], "--workdir="),
    ):
        refused = subprocess.run([*script, *wrong], capture_output=True, text=True, check=False)
        assert refused.returncode == 2
        assert message in refused.stderr
