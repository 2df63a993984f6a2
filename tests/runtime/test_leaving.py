"""A command that failed ends, whatever threads its libraries left behind."""

import subprocess
import sys


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
    return 75

leaving.PATIENCE, cli._run = 0.1, leaves_a_thread
sys.exit(cli.main())
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 75
