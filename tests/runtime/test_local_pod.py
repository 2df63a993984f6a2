"""Real processes that train: as one, asked to stop, hung, killed; in the end it all made no difference."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import quick_xla
from tests.forks import Process

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 30
LIMIT = 600.0  # of any wait, for machines that are busy


def command(workdir, *more):
    return [
        "train", "--config=configs/videomae_v2.py:B,smoke", f"--workdir={workdir}",
        "--quiet", f"--config.train.length.steps={STEPS}", "--config.checkpoint.every.steps=5",
        "--config.train.pictures_every=none", *more,
    ]  # fmt: skip


def environment(**more):
    return quick_xla.on_devices(1) | {"VMAE_HEARTBEAT": "60"} | more


def start(forks, workdir, *more, log, heartbeat="60"):
    """Two processes of one job, without a supervisor."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        job = {"VMAE_COORDINATOR": f"127.0.0.1:{probe.getsockname()[1]}", "VMAE_PROCESSES": "2"}
    return [
        Process(
            forks,
            command(workdir, *more),
            environment(**job, VMAE_PROCESS=str(rank), VMAE_HEARTBEAT=heartbeat),
            log=log / f"{rank}.txt",
        )
        for rank in range(2)
    ]


def rows(workdir, kind="train"):
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [row for row in map(json.loads, (line for line in lines if line.endswith("\n"))) if row["kind"] == kind]


def until_step(workdir, step, processes):
    end = time.monotonic() + LIMIT
    while max((row["step"] for row in rows(workdir)), default=0) < step:
        assert time.monotonic() < end
        assert any(process.poll() is None for process in processes)
        time.sleep(0.02)


def steps(workdir):
    return [int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdigit()]


def losses(workdir):
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows(workdir)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, forks):
    """The losses of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    processes = start(forks, folder / "run", log=folder)
    assert [process.wait(LIMIT) for process in processes] == [0, 0], (folder / "0.txt").read_text()[-2000:]
    return losses(folder / "run")


@pytest.mark.slow
def test_one_process_has_the_same_losses(undisturbed, tmp_path, forks):
    process = Process(forks, command(tmp_path / "run"), environment())
    assert process.wait(LIMIT) == 0, process.err[-2000:]
    alone = losses(tmp_path / "run")
    assert [row[0] for row in alone] == [row[0] for row in undisturbed] == list(range(1, STEPS + 1))
    for mine, other in zip(alone, undisturbed, strict=True):
        assert mine[1] == pytest.approx(other[1], rel=1e-5)


@pytest.mark.slow
def test_stopped_hung_and_killed_it_ends_as_if_nothing_had_been(undisturbed, tmp_path, forks):
    run = tmp_path / "run"

    # SIGTERM to one of them: both save one step, and report that the same command resumes.
    processes = start(forks, run, log=tmp_path)
    until_step(run, 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(LIMIT) for process in processes] == [75, 75], (tmp_path / "0.txt").read_text()[-2000:]
    (preempted,) = [row["step"] for row in rows(run, "event") if row["event"] == "preempted"]
    assert max(steps(run)) == preempted < STEPS

    # One that hangs, long before JAX would take it for dead: the other notices, names it, and ends.
    processes = start(forks, run, "--limit=step=6", "--limit=save=6", log=tmp_path, heartbeat="100")
    until_step(run, preempted + 2, processes)
    processes[1].send_signal(signal.SIGSTOP)
    try:
        assert processes[0].wait(LIMIT) == 75
    finally:
        processes[1].kill()
        processes[1].wait()
    result = (tmp_path / "0.txt").read_text()
    assert "has not ended within 6 s" in result
    assert "host 1 (" in result.split("has not ended")[1]
    assert "is silent, last seen in " in result
    assert "in train" in result.split("watchdog: stacks of host 0")[1]

    # One that is killed: the other ends within the timeout, and the supervisor starts both again.
    before = max(row["step"] for row in rows(run))
    program = [sys.executable, "-m"]
    supervise = [*program, "vmae_jax.runtime.supervisor", "--processes=2", "--grace=30", "--"]
    supervisor = subprocess.Popen(
        [*supervise, *program, "vmae_jax", *command(run)],
        cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert supervisor.stderr is not None
    started = next(line for line in supervisor.stderr if "started process 0" in line)
    until_step(run, min(before + 2, STEPS - 5), [supervisor])
    os.kill(int(started.rpartition("pid ")[2].rstrip(")\n")), signal.SIGKILL)
    _, result = supervisor.communicate(timeout=LIMIT)
    assert supervisor.returncode == 0, result[-3000:]
    assert "process 1 ended with status 137" in result or "restart 1 of" in result
    assert losses(run) == undisturbed
    assert max(steps(run)) == STEPS
