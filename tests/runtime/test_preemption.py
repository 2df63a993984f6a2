"""The first signal asks, the second ends at once; all hosts stop at one step."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from vmae_jax.runtime.preemption import Preemption

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_and_handlers_come_back(number, capfd):
    before = signal.getsignal(number)
    with Preemption() as preemption:
        assert not preemption.requested(1)
        assert preemption.reason == ""
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert preemption.requested(2)
        assert preemption.requested(3)
        assert preemption.reason == signal.Signals(number).name
    assert signal.getsignal(number) is before
    assert "saving after this step" in capfd.readouterr().err


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), Preemption():
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("first", "second", "status"), [("SIGTERM", "SIGTERM", 143), ("SIGTERM", "SIGINT", 130)])
def test_a_second_signal_ends_at_once(first, second, status):
    code = f"""
import os, signal, time
from vmae_jax.runtime.preemption import Preemption
with Preemption() as preemption:
    os.kill(os.getpid(), signal.{first})
    time.sleep(0.05)
    assert preemption.requested(1)
    os.kill(os.getpid(), signal.{second})
    time.sleep(30)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, timeout=60)
    assert done.returncode == status, done.stderr


_BUSY = """
import hashlib, os, signal, sys, threading, time
import jax
jax.config.update("jax_platforms", "cpu")
if port := int(sys.argv[1]):
    jax.distributed.initialize(f"127.0.0.1:{port}", 1, 0)
from vmae_jax.runtime.preemption import Preemption

def twice():
    for _ in range(2):
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

with Preemption():
    threading.Thread(target=twice).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # long, outside of Python, as a compilation is
"""


@pytest.mark.parametrize("distributed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_second_signal_ends_at_once_also_what_is_busy_outside_of_python(distributed):
    done = subprocess.run(
        [sys.executable, "-c", _BUSY, str(free_port() if distributed else 0)],
        cwd=ROOT, capture_output=True, check=False, timeout=120, text=True,
    )  # fmt: skip
    assert done.returncode == 143, done.stderr
    assert done.stderr.count("saving after this step") == 1


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


_HOST = """
import sys, time
import jax
jax.config.update("jax_platforms", "cpu")
rank, count, port = map(int, sys.argv[1:])
jax.distributed.initialize(f"127.0.0.1:{port}", count, rank)
from vmae_jax.runtime.preemption import Preemption
with Preemption() as preemption:
    print("ready", flush=True)
    for step in range(1, 2000):
        time.sleep(0.02 if rank else 0.023)
        if preemption.requested(step):
            print("stopped", step, flush=True)
            break
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("count", [1, 2])
def test_a_notice_to_one_host_stops_all_at_one_step(count, number):
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", _HOST, str(rank), str(count), str(port)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env=environment,
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        for host in hosts:
            assert host.stdout is not None
            assert host.stdout.readline() == "ready\n"
        time.sleep(0.3)
        hosts[-1].send_signal(number)
        result = [host.communicate(timeout=60)[0].split() for host in hosts]
    finally:
        for host in hosts:
            host.kill()
            host.wait()
    assert all(words[:1] == ["stopped"] for words in result), result
    assert len({words[1] for words in result}) == 1
    assert [host.returncode for host in hosts] == [0] * count
