"""The real training step, compiled for devices that need not be here."""

import math
import pathlib
import re
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from vmae_jax.plan import flops, hlo
from vmae_jax.train import sharding
from vmae_jax.train.state import make_init
from vmae_jax.train.step import compile_step, make_step
from vmae_jax.types import Method

__all__ = ["Compiled", "compile_training", "executed_flops", "state_bytes"]

Spec = Mapping[str, Any]  # shapes and dtypes of a batch
_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Compiled(NamedTuple):
    """What the compiler says of a step.

    Attributes:
      fits: False when it refused for want of memory.
      arguments, temporaries, outputs: bytes a device; None where it does not fit.
      peak: their sum, the donated state counted once: what a device must have free, or would need.
      limit: bytes that a device has for it, as the compiler states them; None where it does not.
      collectives: what goes between devices.
      seconds: that compiling took.
      replicated: dimensions that a rule would split but that do not divide.
      mesh: axis -> size.
    """

    fits: bool
    arguments: int | None
    temporaries: int | None
    outputs: int | None
    peak: int
    limit: int | None
    collectives: hlo.Collectives | None
    seconds: float
    replicated: tuple[str, ...]
    mesh: dict[str, int]


def compile_training(
    method: Method,
    tx: Any,
    *,
    mesh: jax.sharding.Mesh,
    batch_spec: Spec,
    accumulate: int,
    ema_decay: float | None,
) -> Compiled:
    """Compiles the step that `vmae train` runs, for abstract state and batch.

    Raises:
      ConfigError: the batch does not divide by the mesh.
    """
    init = make_init(method, tx, ema=ema_decay is not None)
    boxed = sharding.abstract(init, batch_spec)
    placement = sharding.shardings(boxed, mesh)
    step = make_step(method, tx, accumulate=accumulate, ema_decay=ema_decay)
    began = time.perf_counter()
    lowered = compile_step(step, placement, mesh, batch_spec).lower(sharding.unbox(boxed), batch_spec)
    mesh_shape = dict(mesh.shape)
    try:
        program, text = _compile(lowered, on_tpu=mesh.devices.flat[0].platform == "tpu")
    except jax.errors.JaxRuntimeError as error:
        needed, limit = _out_of_memory(str(error))
        if needed is None:
            raise
        seconds = time.perf_counter() - began
        return Compiled(False, None, None, None, needed, limit, None, seconds, placement.replicated, mesh_shape)
    seconds = time.perf_counter() - began
    memory = program.memory_analysis()
    arguments, temporaries = int(memory.argument_size_in_bytes), int(memory.temp_size_in_bytes)
    outputs = int(memory.output_size_in_bytes)
    # The state is donated: the new one lies where the old one was.
    peak = arguments + temporaries + outputs - int(memory.alias_size_in_bytes)
    return Compiled(
        True, arguments, temporaries, outputs, peak, None,
        hlo.collectives(text), seconds, placement.replicated, mesh_shape,
    )  # fmt: skip


def _compile(lowered: Any, *, on_tpu: bool) -> tuple[Any, str]:
    """The program, and its text after all optimisations."""
    if not on_tpu:
        program = lowered.compile()
        return program, program.as_text() or ""
    # libtpu may be newer than jaxlib, which then cannot print its programs: it prints them itself.
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True, "xla_dump_hlo_module_re": ".*train_step"}
        program = lowered.compile(compiler_options=options)
        (printed,) = pathlib.Path(folder).glob("*.after_optimizations.txt")
        return program, printed.read_text()


def executed_flops(method: Method, tx: Any, *, batch_spec: Spec, ema_decay: float | None) -> float:
    """Operations of all products in a step over the whole batch, with what `remat` computes again."""
    init = make_init(method, tx, ema=ema_decay is not None)
    state = sharding.unbox(sharding.abstract(init, batch_spec))
    # Accumulation changes no product but would trace the forward pass once more, for its counts.
    return flops.count(make_step(method, tx, ema_decay=ema_decay), state, batch_spec)


def state_bytes(method: Method, tx: Any, *, mesh: jax.sharding.Mesh, batch_spec: Spec, ema_decay: float | None) -> int:
    """Bytes of the state that one device holds, from shapes and shardings alone."""
    boxed = sharding.abstract(make_init(method, tx, ema=ema_decay is not None), batch_spec)
    placement = sharding.shardings(boxed, mesh)
    leaves = zip(jax.tree.leaves(sharding.unbox(boxed)), jax.tree.leaves(placement.shardings), strict=True)
    return sum(math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, place in leaves)


def _out_of_memory(message: str) -> tuple[int | None, int | None]:
    """(bytes needed, bytes there are) of the compiler's refusal; (None, None) of any other error."""
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
