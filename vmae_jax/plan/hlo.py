"""The traffic of a compiled program between devices, by kind and size, including the iterations of loops."""

import collections
import dataclasses
import math
import re

from vmae_jax.plan.program import Computation, Instruction, Program

__all__ = ["Collectives", "Traffic", "chain", "collectives", "sent"]

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """One kind of collective, over a whole step.

    Attributes:
      count: number of executions.
      bytes: of the whole arrays on one device, over all executions.
      link_bytes: the least that a device must send, by a ring over the group.
      sizes: bytes of one operation -> executions; the largest share of `bytes` first.
    """

    count: int
    bytes: int
    link_bytes: int
    sizes: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Collectives:
    """All collectives of a step.

    Attributes:
      kinds: by name.
      unknown_loops: loops with collectives and an unknown number of iterations, which are counted once.
    """

    kinds: dict[str, Traffic]
    unknown_loops: int

    @property
    def link_bytes(self) -> int:
        """Of all kinds together."""
        return sum(traffic.link_bytes for traffic in self.kinds.values())


def collectives(program: Program) -> Collectives:
    """Return the collectives of a compiled program."""
    sizes: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    links: collections.Counter[str] = collections.Counter()
    hidden: set[str] = set()
    chains: set[str] = set()
    for name, here in program.computations.items():
        times = program.times.get(name, 0)
        for line in here.values() if times else ():
            found, part = sent(line, here), chain(line)
            if found is None or part in chains:
                continue
            if part is not None:
                chains.add(part)
            kind, size, link_bytes = found
            sizes[kind][size] += times
            links[kind] += round(times * link_bytes)
            hidden |= program.unknown.get(name, frozenset())
    kinds = {
        kind: Traffic(
            count=sum(sizes[kind].values()),
            bytes=sum(size * count for size, count in sizes[kind].items()),
            link_bytes=links[kind],
            sizes=tuple(sorted(sizes[kind].items(), key=lambda item: -item[0] * item[1])),
        )
        for kind in KINDS
        if kind in sizes
    }
    return Collectives(kinds, len(hidden))


def sent(line: Instruction, here: Computation) -> tuple[str, int, float] | None:
    """Return the kind of a collective, the bytes of its whole array, and those that a device sends; None for others."""
    kind, group = _kind(line, here), _group(line.text)
    if kind is None or group == 1:
        return None  # one device sends nothing
    size = _size(line)
    return kind, size, size * _share(kind, group)


def chain(line: Instruction) -> str | None:
    """Return what the parts of one collective have in common, where a TPU's compiler spread it over operations."""
    match = re.search(r'\bchain_id="(\d+)"', line.text)
    return match[1] if match else None


def _kind(line: Instruction, here: Computation) -> str | None:
    op = line.op.removesuffix("-start")
    if op not in KINDS:
        return None
    # A TPU's reduce-scatter is printed as one operation made of an all-reduce and the slice that is kept.
    root = next((other for other in here.values() if other.root), None)
    kept = root is not None and root.op == "dynamic-slice" and root.operands[:1] == (line.name,)
    return "reduce-scatter" if op == "all-reduce" and kept else op


def _size(line: Instruction) -> int:
    """Return the bytes of the whole array on one device: after gathering, or before scattering."""
    sizes = [array.bytes for array in line.arrays]
    if line.op in ("all-gather-start", "collective-permute-start"):
        # (operands, results, …): the result is the larger, or as large.
        return max(sizes, default=0) if len(sizes) <= 4 else sum(sizes) - min(sizes, default=0) * (len(sizes) // 2)
    if line.op == "reduce-scatter":
        return sum(sizes) * (_group(line.text) or 1)
    return sum(sizes)


def _share(kind: str, group: int | None) -> float:
    """Return the bytes that each device of a ring sends per byte of the whole array."""
    if kind == "collective-permute":
        return 1.0
    part = 1.0 if group is None else (group - 1) / group
    return 2 * part if kind == "all-reduce" else part


def _group(line: str) -> int | None:
    """Return the number of devices in a group, or None if the text does not have it."""
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line):
        return int(match[2])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        # A part of an axis is written 'axis':(before)size.
        return math.prod(int(part) if part else sizes[name] for name, part in _axes(match[2]))
    return None


def _axes(text: str) -> list[tuple[str, str]]:
    return re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", text)
