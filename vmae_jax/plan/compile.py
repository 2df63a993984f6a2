"""The real training step, compiled for devices that need not be present."""

import math
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from vmae_jax.plan import cache, flops, hlo, program
from vmae_jax.plan.schedule import Schedule, schedule
from vmae_jax.plan.topology import Topology
from vmae_jax.plan.work import Work, work
from vmae_jax.train import sharding
from vmae_jax.train.step import compile_step

__all__ = ["Compiled", "compile_training", "executed_flops", "state_bytes"]

Spec = Mapping[str, Any]  # shapes and dtypes of a batch
Init = Callable[[Any, Any], Any]
_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Compiled(NamedTuple):
    """The compiler's figures of a step.

    Attributes:
      fits: False if the compiler refused it for lack of memory.
      arguments, temporaries, outputs: bytes per device; None if it does not fit.
      peak: their sum, with the donated state counted once: the memory that a device needs.
      limit: bytes of a device, as stated by the compiler, or None.
      collectives: traffic between devices.
      work: products, memory traffic and the compiler's estimate, of one device.
      seconds: duration of the compilation.
      replicated: dimensions that a rule would split but that do not divide.
      mesh: axis -> size.
      cached: whether the figures come from the cache.
      kernels: operations of one device that the program does not show, inside kernels.
      schedule: the program in the compiler's order, if the chip is known.
    """

    fits: bool
    arguments: int | None
    temporaries: int | None
    outputs: int | None
    peak: int
    limit: int | None
    collectives: hlo.Collectives | None
    work: Work | None
    seconds: float
    replicated: tuple[str, ...]
    mesh: dict[str, int]
    cached: bool = False
    kernels: float = 0.0
    schedule: Schedule | None = None


def compile_training(
    init: Init,
    step: Any,
    *,
    target: Topology,
    mesh: jax.sharding.Mesh,
    batch_spec: Spec,
    executed: float,
    folder: Any = None,
) -> Compiled:
    """Compile the step of `vmae train` for abstract state and batch.

    Args:
      init: (key, batch) -> state.
      step: of `make_step`.
      target: of the devices of `mesh`.
      executed: operations of the traced step, over all devices.
      folder: of the cache; None caches nothing.

    Raises:
      ConfigError: if the batch does not divide by the mesh.
    """
    boxed = sharding.abstract(init, batch_spec)
    placement = sharding.shardings(boxed, mesh)
    lowered = compile_step(step, placement, mesh, batch_spec).lower(sharding.unbox(boxed), batch_spec)
    kept = None if folder is None else cache.entry(folder, lowered.as_text(), target.name)
    if kept is not None and (found := cache.read(kept, Compiled)) is not None:
        return found._replace(cached=True)
    began = time.perf_counter()
    facts = {"replicated": placement.replicated, "mesh": dict(mesh.shape)}
    try:
        compiled, text = _compile(lowered, on_tpu=target.platform == "tpu")
    except jax.errors.JaxRuntimeError as error:
        needed, limit = out_of_memory(str(error))
        if needed is None:
            raise
        seconds = time.perf_counter() - began
        result = Compiled(False, None, None, None, needed, limit, None, None, seconds, **facts)
    else:
        result = _fitting(compiled, text, target, executed, time.perf_counter() - began, facts)
    if kept is not None:
        cache.write(kept, result)
    return result


def _fitting(
    compiled: Any, text: str, target: Topology, executed: float, seconds: float, facts: dict[str, Any]
) -> Compiled:
    memory = compiled.memory_analysis()
    arguments, temporaries = int(memory.argument_size_in_bytes), int(memory.temp_size_in_bytes)
    outputs = int(memory.output_size_in_bytes)
    # The state is donated: the new one has the memory of the old one.
    peak = arguments + temporaries + outputs - int(memory.alias_size_in_bytes)
    parsed = program.parse(text)
    done = work(parsed, target.chip.unit if target.chip else 1)
    kernels = max(0.0, executed / len(target.devices) - done.flops) if done.kernels else 0.0
    order = schedule(parsed, chip=target.chip, kernels=kernels) if target.chip else None
    sizes, sent = (arguments, temporaries, outputs, peak, None), hlo.collectives(parsed)
    return Compiled(True, *sizes, sent, done, seconds, **facts, kernels=kernels, schedule=order)


def _compile(lowered: Any, *, on_tpu: bool) -> tuple[Any, str]:
    """Return the program, and its text after all optimizations."""
    if not on_tpu:
        compiled = lowered.compile()
        return compiled, compiled.as_text() or ""
    # jaxlib cannot print the programs of a newer libtpu, which prints them itself.
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True, "xla_dump_hlo_module_re": ".*train_step"}
        compiled = lowered.compile(compiler_options=options)
        (printed,) = pathlib.Path(folder).glob("*.after_optimizations.txt")
        return compiled, printed.read_text()


def executed_flops(init: Init, step: Any, *, batch_spec: Spec) -> float:
    """Return the operations of all products of a step over the whole batch, including recomputation.

    Args:
      step: with one micro-batch: accumulation changes no product, but traces the forward pass once more.
    """
    return flops.count(step, sharding.unbox(sharding.abstract(init, batch_spec)), batch_spec)


def state_bytes(init: Init, *, mesh: jax.sharding.Mesh, batch_spec: Spec) -> int:
    """Return the bytes of the state on one device, from shapes and shardings."""
    boxed = sharding.abstract(init, batch_spec)
    placement = sharding.shardings(boxed, mesh)
    leaves = zip(jax.tree.leaves(sharding.unbox(boxed)), jax.tree.leaves(placement.shardings), strict=True)
    return sum(math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, place in leaves)


def out_of_memory(message: str) -> tuple[int | None, int | None]:
    """Return (bytes needed, bytes available) from a refusal of the compiler; (None, None) for other errors."""
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        return None, None
    needed = re.search(r"Used ([\d.]+)([KMGT]?)B? of ([\d.]+)([KMGT]?)B? hbm", message)
    if needed is None:
        pattern = r"total memory[^(]*\(([\d.]+)([KMGT]?)B?\) exceeds available HBM \(([\d.]+)([KMGT]?)B?\)"
        needed = re.search(pattern, message)
    if needed is None:
        return None, None
    used, unit, limit, limit_unit = needed.groups()
    return int(float(used) * _UNITS[unit]), int(float(limit) * _UNITS[limit_unit])
