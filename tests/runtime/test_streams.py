"""Output that has nowhere to go stops nothing, and changes no exit status."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODE = """
import faulthandler, logging, sys
from tqdm import tqdm
from vmae_jax.runtime.streams import forgiving
with forgiving():
    logging.basicConfig(stream=sys.stderr)
    for _ in tqdm(range(3), mininterval=0):
        print("x" * 100_000, flush=True)
        print("y" * 100_000, file=sys.stderr, flush=True)
        logging.error("z")
    faulthandler.dump_traceback(file=sys.stderr)
sys.exit(75)
"""


def run(**streams):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=environment, check=False, **streams)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_under_the_output():
    with open("/dev/full", "w") as full:
        done = run(stdout=full, stderr=full)
    assert done.returncode == 75


def test_a_reader_that_is_gone():
    reading, writing = os.pipe()
    os.close(reading)
    done = run(stdout=writing, stderr=subprocess.DEVNULL)
    os.close(writing)
    assert done.returncode == 75


def test_what_can_be_written_is():
    done = run(capture_output=True, text=True)
    assert done.returncode == 75
    assert done.stdout.count("x") == 300_000
    assert done.stderr.count("y") >= 300_000
