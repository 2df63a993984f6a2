"""A command that failed ends, whatever threads its libraries left behind."""

import socket
import subprocess
import sys

from tests import quick_xla


def test_threads_that_a_failed_save_left_behind_do_not_keep_the_process():
    code = """
import sys, threading
from vmae_jax import cli
from vmae_jax.runtime import leaving

class Stubborn(threading.Thread):
    def join(self, timeout=None):
        raise TimeoutError("as Orbax's threads do")

def leaves_a_thread(arguments):
    Stubborn(target=threading.Event().wait).start()
    return 75, None

leaving.PATIENCE, cli._run = 0.1, leaves_a_thread
sys.exit(cli.main())
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 75


def test_the_one_that_is_left_of_a_job_does_not_wait_for_the_other():
    """JAX would wait for it for a minute."""
    code = """
import os, sys
from vmae_jax import cli
from vmae_jax.runtime import distributed

def loses_the_other(arguments):
    distributed.start(os.environ)
    if os.environ["VMAE_PROCESS"] == "1":
        os._exit(1)
    return 75, distributed.PeerError("the other is gone")

cli._run = loses_the_other
sys.exit(cli.main())
"""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        job = {"VMAE_COORDINATOR": f"127.0.0.1:{probe.getsockname()[1]}", "VMAE_PROCESSES": "2"}
    environments = [quick_xla.on_devices(1) | job | {"VMAE_PROCESS": rank} for rank in "01"]
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for environment in environments]
    try:
        assert [process.wait(50) for process in processes] == [75, 1]
    finally:
        for process in processes:
            process.kill()
