"""Virtual devices of a busy machine are waited for."""

import os
import subprocess
import sys

from vmae_jax.runtime.virtual_devices import FLAGS, patient


def test_only_where_devices_are_virtual_and_never_over_what_is_set():
    alone: dict[str, str] = {}
    patient(alone)
    assert alone == {}
    one = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    patient(one)
    assert one == {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    given = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    patient(given)
    first, *rest = given["XLA_FLAGS"].split()
    assert first == "--xla_force_host_platform_device_count=8"
    assert rest == [f"{name}={seconds}" for name, seconds in FLAGS.items()]
    assert given["NPROC"] == "32"
    patient(given)
    assert len(given["XLA_FLAGS"].split()) == 3
    own = {"XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {next(iter(FLAGS))}=7", "NPROC": "5"}
    patient(own)
    assert own["NPROC"] == "5"
    assert own["XLA_FLAGS"].count(next(iter(FLAGS))) == 1


def test_this_jax_knows_the_flags():
    """XLA ends a process that names a flag it does not have."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    patient(environment)
    code = "import jax; print(len(jax.devices()))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stdout == "2\n", done.stderr
