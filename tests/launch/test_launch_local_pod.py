"""launch/local_pod.sh itself: its processes know each other, are stopped together, and resume together."""

import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
VMAE = f"""#!{sys.executable}
import os, pathlib, signal, sys, time
rank = os.environ["VMAE_PROCESS"]
names = ("VMAE_COORDINATOR", "VMAE_PROCESSES", "VMAE_HEARTBEAT", "JAX_PLATFORMS", "XLA_FLAGS")
result = " ".join([*sys.argv[1:], *(os.environ[name] for name in names)])
saved = pathlib.Path("saved-" + rank)
if saved.exists():
    print("done", rank)
    sys.exit(0)
signal.signal(signal.SIGTERM, lambda *_: (saved.touch(), sys.exit(75)))
pathlib.Path("waits-" + rank).write_text(result)
time.sleep(60)
"""


def test_four_processes_are_stopped_together_and_the_same_command_resumes(cloud):
    environment = os.environ | {"VMAE_VENV": str(cloud.environment(VMAE)), "VMAE_DEVICES": "2", "XLA_FLAGS": "--mine"}
    command = ["bash", str(ROOT / "launch" / "local_pod.sh"), "4", "train", "--workdir=a b"]
    job = subprocess.Popen(command, cwd=cloud.folder, env=environment, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    waiting = [cloud.folder / f"waits-{rank}" for rank in range(4)]
    while not all(file.exists() and file.read_text() for file in waiting):
        assert time.monotonic() < end
        assert job.poll() is None
        time.sleep(0.05)
    [result] = {file.read_text() for file in waiting}
    assert result.startswith("train --workdir=a b 127.0.0.1:")
    assert result.endswith(" 4 30 cpu --mine --xla_force_host_platform_device_count=2")
    job.send_signal(signal.SIGTERM)  # to the script, as a scheduler would
    job.communicate(timeout=60)
    assert job.returncode == 75
    assert len(list(cloud.folder.glob("saved-*"))) == 4
    again = subprocess.run(
        command, cwd=cloud.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (again.returncode, again.stdout) == (0, "done 0\n")  # the result is printed once
