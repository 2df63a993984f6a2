"""How XLA compiles in tests: as fast as it can, since they compile far more than they compute."""

import os
from collections.abc import Mapping

# The older emitters of fused operations compile in less than half the time of those that JAX uses by default.
FLAGS = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")


def on_devices(count: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a process that compiles fast for so many virtual devices of a CPU."""
    flags = (*FLAGS, f"--xla_force_host_platform_device_count={count}")
    return {**environment, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}
