"""The work of a device in one run of a compiled program: products, memory traffic, the compiler's own estimate.

Bytes are those that operations read from and write to HBM, in whole tiles, according to the layouts: arrays in
the chip's fast memory are free, and a slice of an array costs only the slice.
"""

import collections
import math
import re
from typing import NamedTuple

from vmae_jax.plan import naming
from vmae_jax.plan.products import product
from vmae_jax.plan.program import Array, Computation, Instruction, Program

__all__ = ["Part", "Work", "work"]

# These only name arrays or wait for them.
_STILL = {
    "parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "conditional", "call", "after-all",
    "opt-barrier", "partition-id", "replica-id", "copy-done", "all-gather-done", "all-reduce-done", "async-done",
    "collective-permute-done", "slice-done", "dynamic-slice-done",
}  # fmt: skip
MOVERS = 24  # that are kept
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class Part(NamedTuple):
    """The share of one part of the network: operations, operations with padding, bytes, cycles."""

    flops: float
    padded: float
    bytes: float
    cycles: float


class Mover(NamedTuple):
    """The operations of one kind on one form of array that belong to one part of the network.

    Attributes:
      part: of the network.
      operation, array: what the compiler calls it, and the form of its first result.
      times: a step.
      bytes: read from and written to memory in a step.
    """

    part: str
    operation: str
    array: str
    times: int
    bytes: float


class Work(NamedTuple):
    """The work of one device.

    Attributes:
      flops: of all products, including recomputation.
      padded: the same with whole tiles and a full matrix unit.
      bytes: read from and written to the device's memory.
      cycles: the compiler's own estimate of all operations in sequence; 0 if it prints none.
      parts: the same by part of the network, the forward pass as "fwd …", the backward pass as "bwd …".
      kernels: calls of kernels (Pallas), whose operations are unknown and not counted.
      movers: what moves most bytes, in descending order.
    """

    flops: float
    padded: float
    bytes: float
    cycles: float
    parts: dict[str, Part]
    kernels: int = 0
    movers: tuple[Mover, ...] = ()


def work(program: Program, unit: int = 128) -> Work:
    """Add up the work of a program, including the iterations of loops.

    Args:
      unit: rows of the matrix unit.
    """
    parts: dict[str, list[float]] = collections.defaultdict(lambda: [0.0] * 4)
    movers: dict[tuple[str, str, str], list[float]] = collections.defaultdict(lambda: [0, 0.0])
    kernels = 0
    for name, here in program.computations.items():
        times = program.times.get(name, 0)
        named = naming.parts(here) if times else {}
        for line in here.values() if times else ():
            kernels += times if 'custom_call_target="tpu_custom_call"' in line.text else 0
            found = product(line, here, unit)
            cost = [0.0] * 4 if found is None else [found.flops, found.padded, 0.0, 0.0]
            if name not in program.fused:
                cost[2] = moved(line, here, program)
                if cost[2]:
                    mover = movers[(named[line.name], _kind(line), _form(line))]
                    mover[0], mover[1] = mover[0] + times, mover[1] + times * cost[2]
                cost[3] = sum(map(float, _CYCLES.findall(line.text)))
            if any(cost):
                part = parts[named[line.name]]
                for at, value in enumerate(cost):
                    part[at] += times * value
    totals = [sum(part[at] for part in parts.values()) for at in range(4)]
    ordered = sorted(parts.items(), key=lambda item: -item[1][3] or -item[1][1])
    most = sorted((Mover(*key, int(count), size) for key, (count, size) in movers.items()), key=lambda one: -one.bytes)
    found = {name: Part(*values) for name, values in ordered}
    return Work(*totals, parts=found, kernels=kernels, movers=tuple(most[:MOVERS]))


def _kind(line: Instruction) -> str:
    """Return what an operation does, as its name has it: "copy-start", "slice-start", "broadcast_add_fusion"."""
    return line.name.rstrip("0123456789").rstrip(".")


def _form(line: Instruction) -> str:
    array = max(line.arrays, key=lambda one: one.bytes, default=None)
    return "" if array is None else f"{array.kind}[{','.join(map(str, array.shape))}]"


def moved(line: Instruction, here: Computation, program: Program) -> int:
    """Return the bytes that an operation reads from memory and writes to it."""
    if line.op in _STILL or 'custom_call_target="AllocateBuffer"' in line.text:
        return 0
    if line.op in ("dynamic-slice", "slice", "gather"):
        return _sliced(line.arrays[0], here[line.operands[0]].arrays[0])
    if line.op == "dynamic-update-slice":
        return 2 * sum(_off_chip(here[name]) for name in line.operands[1:2])
    if line.op == "fusion":
        return _of_fusion(line, here, program)
    if line.op == "async-start" and (whole := _asynchronous_slice(line, program)):
        return _sliced(line.arrays[1], whole)
    if line.op.endswith("-start"):
        return sum(_outside(array) for array in line.arrays)  # (result, operand, …), all of them arrays
    return _off_chip(line) + sum(_off_chip(here[name]) for name in line.operands if name in here)


def _sliced(result: Array, source: Array) -> int:
    """Return the bytes of a slice, read from `source` and written."""
    return result.padded_bytes * ((not source.on_chip) + (not result.on_chip))


def _asynchronous_slice(line: Instruction, program: Program) -> Array | None:
    """Return what an operation that runs beside others slices: the first array of ((operand), result, context)."""
    inside = program.computations.get(line.attribute("calls") or "", {})
    sliced = any(one.op in ("slice", "dynamic-slice") and one.root for one in inside.values())
    return line.arrays[0] if sliced else None


def _of_fusion(line: Instruction, here: Computation, program: Program) -> int:
    inside = program.computations.get(line.attribute("calls") or "", {})
    total = 0
    for one in inside.values():
        number = re.search(r" parameter\((\d+)\)", one.text)
        if number is None or int(number[1]) >= len(line.operands):
            continue
        if _off_chip(here[line.operands[int(number[1])]]):
            total += min(_off_chip(one) or math.inf, _reads(one, inside, program))
    root = next((one for one in inside.values() if one.root), None)
    return int(total) + (_off_chip(line) if root is None else _written(root, line, inside))


def _reads(read: Instruction, inside: Computation, program: Program) -> float:
    """Return the bytes of `read` that its uses inside an operation need, counting every use."""
    return sum(_read(use, read, inside, program) for use in inside.values() if read.name in use.operands)


def _read(use: Instruction, read: Instruction, inside: Computation, program: Program) -> float:
    if use.op in ("dynamic-slice", "slice", "gather"):
        return use.padded_bytes if use.operands[0] == read.name else 0
    if use.op == "dynamic-update-slice" and use.operands[0] == read.name:
        return 0  # written in place
    if use.op == "bitcast":
        return _reads(use, inside, program) or read.padded_bytes
    if use.op == "fusion":  # operations are nested: the operand of a product can be an operation
        nested = program.computations.get(use.attribute("calls") or "", {})
        given = {f" parameter({at})" for at, name in enumerate(use.operands) if name == read.name}
        inner = [one for one in nested.values() if any(number in one.text for number in given)]
        return sum(_reads(one, nested, program) for one in inner) or read.padded_bytes
    return read.padded_bytes


def _written(root: Instruction, line: Instruction, inside: Computation) -> int:
    """Return the bytes that a fused operation writes; of an update in place, those of the update."""
    roots = [inside[name] for name in root.operands] if root.op == "tuple" else [root]
    total = 0
    for one, array in zip(roots, line.arrays, strict=False):
        while one.op == "bitcast":
            one = inside[one.operands[0]]
        update = inside[one.operands[1]].padded_bytes if one.op == "dynamic-update-slice" else None
        total += 0 if array.on_chip else array.padded_bytes if update is None else update
    return total


def _off_chip(line: Instruction) -> int:
    return sum(_outside(array) for array in line.arrays)


def _outside(array: Array) -> int:
    return 0 if array.on_chip else array.padded_bytes
