"""Freed memory is reused: a second use of as much touches no new page."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from vmae_jax.runtime.allocator import keep_freed_memory

applied = len(sys.argv) > 1 and keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(100 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first, second = faults(), faults()
print(int(applied), first, second)
"""


def run(*arguments, **environment):
    """Return whether memory is kept, and the page faults of a first and a second use of 100 MiB."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=keep | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")
def test_freed_memory_is_used_again():
    applied, first, second = run("keep")
    assert applied
    assert second < first / 10
    applied, first, second = run()
    assert not applied
    assert second > first / 2, "without it the pages are cleared again: otherwise this test sees nothing"


def test_what_the_user_set_up_is_left_alone():
    applied, _, _ = run("keep", MALLOC_ARENA_MAX="2")
    assert not applied
