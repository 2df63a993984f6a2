"""A command as one job of several real processes."""

import json
import socket

from tests import quick_xla
from tests.forks import Process

LIMIT = 300.0


def run(forks, count, *arguments):
    """What each of `count` processes of a job answers; each has one device."""
    keep = quick_xla.on_devices(1) | {"VMAE_HEARTBEAT": "60"}
    if count > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            keep |= {"VMAE_COORDINATOR": f"127.0.0.1:{probe.getsockname()[1]}", "VMAE_PROCESSES": str(count)}
    processes = [
        Process(forks, arguments, keep | ({"VMAE_PROCESS": str(rank)} if count > 1 else {})) for rank in range(count)
    ]
    try:
        statuses = [process.wait(LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert statuses == [0] * count, processes[0].err[-3000:] + processes[-1].err[-3000:]
    return [json.loads(process.out.splitlines()[-1]) for process in processes]
