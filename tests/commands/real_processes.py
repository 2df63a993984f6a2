"""A command as one job of several real processes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 300.0


def run(count, *arguments):
    """What each of `count` processes of a job answers; each has one device."""
    flags = "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0"
    keep = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "VMAE_HEARTBEAT": "60"}
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
