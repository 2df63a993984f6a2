"""Processes of one job start together, or name the one that is missing, differs or failed."""

import json
import os
import pathlib
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from vmae_jax.commands.errors import exit_status
from vmae_jax.runtime import distributed
from vmae_jax.spec import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"VMAE_COORDINATOR": "a:1"}, "without VMAE_PROCESSES, VMAE_PROCESS: the three go together"),
        ({"VMAE_COORDINATOR": "a:1", "VMAE_PROCESSES": "2", "VMAE_PROCESS": "2"}, "numbers go from 0 to 1"),
        ({"VMAE_COORDINATOR": "a:1", "VMAE_PROCESSES": "two", "VMAE_PROCESS": "0"}, "a whole number"),
        ({"VMAE_DISTRIBUTED": "yes"}, "it is auto, or not set"),
        ({"VMAE_HEARTBEAT": "-1"}, "VMAE_HEARTBEAT=-1: a whole number"),
    ],
)
def test_a_job_that_is_half_described(environment, message):
    with pytest.raises(ConfigError, match=message):
        distributed.start(environment)


def test_one_process_alone():
    distributed.start({})
    assert distributed.together("alone", lambda: 5, facts=lambda _: {}) == 5
    assert distributed.whereabouts() == ""
    assert distributed.rank() == 0
    distributed.publish("step 1", 1)


def test_a_full_disk_is_reported(monkeypatch, tmp_path):
    distributed.check_disk(str(tmp_path / "not" / "there"))
    distributed.check_disk("gs://bucket/run", resuming=True)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**30))
    distributed.check_disk(str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**30 - 1))
    with pytest.raises(ConfigError, match="GiB free at"):
        distributed.check_disk(str(tmp_path))
    with pytest.raises(OSError, match="GiB free at") as caught:  # the run goes on when there is room again
        distributed.check_disk(str(tmp_path), resuming=True)
    assert exit_status(caught.value) == 75


_HOST = """
import json, os, sys, time
import jax
jax.config.update("jax_platforms", "cpu")
from vmae_jax.commands.errors import exit_status
from vmae_jax.data import source, sources
from vmae_jax.runtime import distributed
from vmae_jax.spec import ConfigError
distributed.start()
rank, case = jax.process_index(), sys.argv[1]
def act():
    if case == "missing" and rank == 1:
        time.sleep(8)
    if case == "mistake" and rank == 1:
        raise ConfigError("data: there is no such folder")
    return rank
def facts(result):
    if case == "data":
        return distributed.facts("a", **source.facts_of(sources.folder(sys.argv[2 + rank]).open()))
    return distributed.facts("b" if case == "differs" and rank == 1 else "a", videos=7)
try:
    result = ["ok", distributed.together("start", act, facts=facts, timeout=3)]
except Exception as error:
    result = [type(error).__name__, str(error)]
print(json.dumps(result), flush=True)
distributed.publish("step 4", 1)
time.sleep(9 if case == "missing" and rank == 0 else 4)
os._exit(0)
"""


def job(case, *folders):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"VMAE_COORDINATOR": f"127.0.0.1:{port}", "VMAE_PROCESSES": "2"}
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", _HOST, case, *folders],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
            env=environment | {"VMAE_PROCESS": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        return [json.loads(host.communicate(timeout=90)[0].splitlines()[0]) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
            host.wait()


@pytest.mark.slow
def test_the_same_on_all_hosts():
    assert job("same") == [["ok", 0], ["ok", 1]]


@pytest.mark.slow
def test_a_host_that_differs_is_named():
    for kind, text in job("differs"):
        assert kind == "ConfigError"
        assert "host 1 (" in text
        assert "differs from host 0" in text
        assert "config " in text
        assert "jax" not in text


@pytest.mark.slow
def test_hosts_with_other_videos_of_the_same_names(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            (tmp_path / folder / f"{number}.mp4").write_bytes(folder.encode())
    folders = [str(tmp_path / folder) for folder in ("one", "two")]
    for kind, text in job("data", *folders):
        assert kind == "ConfigError"
        assert "host 1 (" in text
        assert "contents of the videos" in text
        assert "names" not in text
    assert job("data", folders[0], folders[0]) == [["ok", 0], ["ok", 1]]


@pytest.mark.slow
def test_a_host_that_fails_is_named_on_the_others():
    first, second = job("mistake")
    assert second == ["ConfigError", "data: there is no such folder"]
    assert first[0] == "ConfigError"
    assert first[1].startswith("start: host 1 (")
    assert first[1].endswith("there is no such folder")


@pytest.mark.slow
def test_a_host_that_does_not_come_is_named():
    first, _ = job("missing")
    assert first[0] == "PeerError"
    assert "host 1 did not come within 3 s" in first[1]
