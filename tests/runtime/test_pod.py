"""One, two and four real processes: equal losses, and what happens to one happens to all."""

import json
import os
import pathlib
import re
import signal
import socket
import time

import pytest

from tests import quick_xla
from tests.forks import Process

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOST = pathlib.Path(__file__).with_name("pod_host.py")
STEPS, LIMIT = 12, 400.0

pytestmark = pytest.mark.slow


class Job:
    """The processes of a job; they end with the test."""

    def __init__(self, forks, folder, count, pause=0.0, heartbeat=100, late=0.0, **environment):
        folder.mkdir(exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # Four virtual devices, however many processes share them.
        keep = quick_xla.on_devices(4 // count) | {"VMAE_HEARTBEAT": str(heartbeat)} | environment
        keep["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "train")])
        if count > 1:
            keep |= {"VMAE_COORDINATOR": f"127.0.0.1:{port}", "VMAE_PROCESSES": str(count)}
        self.folder = folder
        self.logs = [folder / f"log{count}.{rank}" for rank in range(count)]
        words = [str(HOST), str(folder), str(STEPS), str(pause), str(late)]
        self.processes = [
            Process(forks, words, keep | ({"VMAE_PROCESS": str(rank)} if count > 1 else {}), log=log)
            for rank, log in enumerate(self.logs)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def until(self, step):
        end = time.monotonic() + LIMIT
        while max((row["step"] for row in rows(self.folder)), default=0) < step:
            assert time.monotonic() < end
            assert all(process.poll() is None for process in self.processes), self.result()
            time.sleep(0.02)

    def ended(self):
        """The statuses, and the last line of each."""
        try:
            statuses = [process.wait(LIMIT) for process in self.processes]
        except TimeoutError as error:
            raise AssertionError(f"still running after {LIMIT:g} s\n{self.result()}") from error
        words = [process.out.splitlines() for process in self.processes]
        last = [json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None for lines in words]
        return statuses, last

    def result(self, most=1500):
        """The ends of the standard errors of the processes, in full where a save failed."""
        return "\n".join(log.read_text()[-most:] for log in self.logs)


def rows(folder):
    file = folder / "rows.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [row for line in lines if line.endswith("\n") and (row := json.loads(line))["kind"] == "train"]


def losses(folder):
    return {row["step"]: row["loss"] for row in rows(folder)}  # of a step done twice, the last


@pytest.fixture(scope="module")
def alone(tmp_path_factory, forks):
    with Job(forks, tmp_path_factory.mktemp("pod") / "alone", 1) as job:
        statuses, _ = job.ended()
        assert statuses == [0], job.result()
    return losses(job.folder)


@pytest.mark.parametrize("count", [2, 4])
def test_losses_are_those_of_one_process(alone, count, tmp_path, forks):
    with Job(forks, tmp_path / "run", count) as job:
        statuses, _ = job.ended()
        assert statuses == [0] * count, job.result()
    assert losses(job.folder) == pytest.approx(alone, rel=1e-5)


def test_one_is_asked_to_stop_and_two_others_go_on_from_what_is_whole(alone, tmp_path, forks):
    """SIGTERM to one of four: all save one step. It is damaged: both of two resume from the one before.

    Of these two one looks into the folder later than the other, who has moved the damaged one by then.
    """
    with Job(forks, tmp_path / "run", 4, pause=0.15) as job:
        job.until(5)
        job.processes[2].send_signal(signal.SIGTERM)
        statuses, message = job.ended()
        assert statuses == [75] * 4, job.result()
    [stopped] = {one["step"] for one in message}
    checkpoints = sorted(int(path.name) for path in (job.folder / "checkpoints").iterdir() if path.name.isdigit())
    assert checkpoints[-1] == stopped < STEPS
    # One process's part of the arrays: the other may well be able to read all that it wants.
    parts = sorted(
        (job.folder / "checkpoints" / str(stopped) / "state" / "d").iterdir(), key=lambda p: p.stat().st_size
    )
    os.truncate(parts[-1], parts[-1].stat().st_size // 2)
    with Job(forks, job.folder, 2, late=1.0) as job:
        statuses, message = job.ended()
        assert statuses == [0, 0], job.result()
    assert {(one["start"], *one["skipped"]) for one in message} == {(checkpoints[-2], stopped)}
    assert losses(job.folder) == pytest.approx(alone, rel=1e-5)


def test_one_is_killed_and_the_others_end_and_name_it(tmp_path, forks):
    with Job(forks, tmp_path / "run", 4, pause=0.15, heartbeat=10) as job:
        job.until(4)
        job.processes[3].kill()
        began = time.monotonic()
        statuses, _ = job.ended()
        assert time.monotonic() - began < 120
        result = job.result(most=100_000)
    assert all(statuses), statuses
    assert statuses[3] == -signal.SIGKILL
    # Our own message names it, or JAX's client in C++, depending on which notices it first.
    named = r"host 3 \([^)]*\) is silent|stopped sending heartbeats\):\s*(?:\d+\s+)*3\b|Task 3 heartbeat timeout"
    assert re.search(named, result), result


def test_a_coordinator_that_is_stopped_is_named(tmp_path, forks):
    with Job(forks, tmp_path / "run", 2, pause=0.15, heartbeat=30) as job:
        job.until(4)
        job.processes[0].send_signal(signal.SIGSTOP)
        assert job.processes[1].wait(LIMIT) == 75, job.result()
        assert re.search(r"host 0 \(127\.0\.0\.1:\d+\), the coordinator of the job, has not answered for", job.result())


@pytest.mark.parametrize("where", ["probe", "written"])
def test_a_save_that_fails_on_one_host_is_given_up_by_all_and_a_later_one_is_good(alone, tmp_path, where, forks):
    with Job(forks, tmp_path / "run", 2, pause=0.3, FAILING_SAVE="2", FAILING_WHERE=where) as job:
        statuses, _ = job.ended()
        assert statuses == [0, 0], job.result()
        message = job.result(most=100_000)
    assert "step 6 was not saved" in message
    assert "No space left on device" in message
    assert "host 1 could not save its part" in message
    steps = {int(path.name) for path in (job.folder / "checkpoints").iterdir() if path.name.isdigit()}
    assert 6 not in steps
    assert {3, 12} <= steps
    assert losses(job.folder) == pytest.approx(alone, rel=1e-5)
