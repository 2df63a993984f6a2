"""A command as one job of several real processes."""

import json
import pathlib
import socket
import subprocess
import sys

from tests import quick_xla

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 300.0


def run(count, *arguments):
    """What each of `count` processes of a job answers; each has one device."""
    keep = quick_xla.on_devices(1) | {"VMAE_HEARTBEAT": "60"}
    if count > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            keep |= {"VMAE_COORDINATOR": f"127.0.0.1:{probe.getsockname()[1]}", "VMAE_PROCESSES": str(count)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "vmae_jax", *arguments], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=keep | ({"VMAE_PROCESS": str(rank)} if count > 1 else {}),
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        message = [process.communicate(timeout=LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * count, message[0][1][-3000:] + message[-1][1][-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in message]
