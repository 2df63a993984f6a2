"""Freed memory is reused: a second use of as much touches no new page."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from vmae_jax.runtime.allocator import keep_freed_memory

assert keep_freed_memory() is {applied}

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(100 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first, second = faults(), faults()
print(first, second)
"""


def run(applied, **environment):
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(applied=applied)],
        env=keep | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")
def test_freed_memory_is_used_again():
    first, second = run(True)
    assert second < first / 10
    assert first > (100 << 20) / os.sysconf("SC_PAGE_SIZE") / 2 or first > 40  # huge pages fault seldom


def test_what_the_user_set_up_is_left_alone():
    run(False, MALLOC_ARENA_MAX="2")
