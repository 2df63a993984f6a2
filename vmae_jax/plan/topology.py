"""Hardware that is not present: the devices of a TPU topology for the compiler, or virtual CPUs."""

import math
import os
import re
from typing import Any, NamedTuple

import jax

from vmae_jax.spec import ConfigError, did_you_mean

__all__ = ["CHIPS", "Chip", "Topology", "topology"]

GIB = 2**30


class Chip(NamedTuple):
    """The data sheet of a chip, and the memory that the compiler lets a program use.

    Attributes:
      flops: dense bfloat16 operations per second.
      hbm_bandwidth, ici_bandwidth: bytes per second; of all links together, in one direction.
      hbm_limit: bytes that a program may use, as libtpu's compiler states them when it refuses one.
      shape: dimensions of a topology's name.
      sold_by: cores or chips per chip in the number of the product's name.
      product: the name without the number.
      unit, units: rows of its matrix units, and their number.
    """

    flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    hbm_limit: int
    shape: int
    sold_by: int
    product: str
    unit: int = 128
    units: int = 8

    @property
    def clock(self) -> float:
        """Cycles per second at which all its matrix units reach `flops`."""
        return self.flops / (2 * self.units * self.unit**2)


# cloud.google.com/tpu/docs: v4, v5e, v5p, v6e.
CHIPS = {
    "v4": Chip(275e12, 1228e9, 300e9, int(30.75 * GIB), 3, 2, "v4"),
    "v5e": Chip(197e12, 819e9, 200e9, int(15.75 * GIB), 2, 1, "v5litepod", units=4),
    "v5p": Chip(459e12, 2765e9, 600e9, int(95.73 * GIB), 3, 2, "v5p"),
    "v6e": Chip(918e12, 1640e9, 400e9, int(31.24 * GIB), 2, 1, "v6e", unit=256, units=4),
}


class Topology(NamedTuple):
    """Devices to compile for.

    Attributes:
      name: as given, such as "v5p:4x4x4".
      platform: "tpu" or "cpu".
      devices: for a mesh; only CPUs can run anything.
      sold_as: the product's name, such as "v5p-128".
      chip: None for CPUs.
    """

    name: str
    platform: str
    devices: list[Any]
    sold_as: str
    chip: Chip | None


def topology(name: str) -> Topology:
    """Return the devices of `v5p:4x4x4` (64 chips), `v5e:4x4`, `v4:2x2x2`, `v6e:8x8`, or `cpu:8`.

    No accelerator of this machine is used. Call it before JAX is used for anything else, because it sets JAX to the
    CPU.

    Raises:
      ConfigError: if the name or shape does not exist, libtpu is missing, or JAX has started with
        fewer CPU devices.
    """
    kind, _, shape = name.partition(":")
    if kind == "cpu":
        return _cpus(name, shape)
    if kind not in CHIPS:
        raise ConfigError(
            f"--topology={name}: there is no {kind!r}{did_you_mean(kind, CHIPS)}; there are "
            f"{', '.join(CHIPS)}, as in v5p:4x4x4 or v5e:4x4, and cpu:8"
        )
    chip = CHIPS[kind]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", shape) or shape.count("x") + 1 != chip.shape:
        raise ConfigError(f"--topology={name}: {kind} has {chip.shape} dimensions, as in {_example(kind)}")
    chips = math.prod(map(int, shape.split("x")))
    devices = _tpus(name, kind)
    if len(devices) != chips:
        raise ConfigError(f"--topology={name}: libtpu makes {len(devices)} devices of {chips} chips")
    return Topology(name, "tpu", devices, f"{chip.product}-{chips * chip.sold_by}", chip)


def _example(kind: str) -> str:
    return f"{kind}:{'x'.join('4' * CHIPS[kind].shape)}"


def _tpus(name: str, kind: str) -> list[Any]:
    # Without these settings libtpu queries the machine, and allows only one process.
    for variable, value in (
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
    ):
        os.environ.setdefault(variable, value)
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    # A v4 chip is two devices unless its cores are joined, as Cloud TPU does.
    options = {"chip_config_name": "megacore"} if kind == "v4" else {}
    try:
        return list(topologies.get_topology_desc(name, "tpu", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--topology={name}: {reason}") from error
    except (ImportError, OSError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(
            f"--topology={name}: compiling for TPUs needs libtpu: pip install 'vmae-jax[plan]' ({error})"
        ) from error


def _cpus(name: str, shape: str) -> Topology:
    if not shape.isdigit() or int(shape) < 1:
        raise ConfigError(f"--topology={name}: a number of virtual devices, as in cpu:8")
    count = int(shape)
    jax.config.update("jax_platforms", "cpu")
    try:
        if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
            jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass  # JAX has started: its devices are counted below
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ConfigError(
            f"--topology={name}: JAX has started with {len(devices)} CPU devices; "
            f"set XLA_FLAGS=--xla_force_host_platform_device_count={count} before it starts"
        )
    return Topology(name, "cpu", devices[:count], f"{count} virtual CPU devices", None)
