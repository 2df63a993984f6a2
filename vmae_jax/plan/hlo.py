"""What a compiled program sends between devices, by kind and size; loops counted as often as they turn."""

import collections
import dataclasses
import math
import re

from vmae_jax.plan.program import Computation, Instruction, Program

__all__ = ["Collectives", "Traffic", "collectives"]

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """One kind of collective, over a whole step.

    Attributes:
      count: how often it runs.
      bytes: of the whole arrays it works on, on one device, all times together.
      link_bytes: what a device must send at least, by a ring over the group.
      sizes: bytes of one operation -> how often; the largest parts of `bytes` first.
    """

    count: int
    bytes: int
    link_bytes: int
    sizes: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Collectives:
    """All that goes between devices in a step.

    Attributes:
      kinds: those that occur.
      unknown_loops: loops with collectives in them whose number of turns is not known; what is in
        them is counted once.
    """

    kinds: dict[str, Traffic]
    unknown_loops: int

    @property
    def link_bytes(self) -> int:
        """Of all kinds together."""
        return sum(traffic.link_bytes for traffic in self.kinds.values())


def collectives(program: Program) -> Collectives:
    """The collectives of a compiled program."""
    sizes: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    links: collections.Counter[str] = collections.Counter()
    hidden: set[str] = set()
    for name, here in program.computations.items():
        times = program.times.get(name, 0)
        for line in here.values() if times else ():
            kind, group = _kind(line, here), _group(line.text)
            if kind is None or group == 1:
                continue  # among one device nothing is sent
            size = _size(line)
            sizes[kind][size] += times
            links[kind] += round(times * size * _share(kind, group))
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


def _kind(line: Instruction, here: Computation) -> str | None:
    op = line.op.removesuffix("-start")
    if op not in KINDS:
        return None
    # A TPU's reduce-scatter is printed as one operation made of an all-reduce and the slice that is kept.
    root = next((other for other in here.values() if other.root), None)
    kept = root is not None and root.op == "dynamic-slice" and root.operands[:1] == (line.name,)
    return "reduce-scatter" if op == "all-reduce" and kept else op


def _size(line: Instruction) -> int:
    """Bytes of the whole array on one device: gathered, or before it is scattered."""
    sizes = [array.bytes for array in line.arrays]
    if line.op in ("all-gather-start", "collective-permute-start"):
        # (operands, results, …): the result is the larger, or as large.
        return max(sizes, default=0) if len(sizes) <= 4 else sum(sizes) - min(sizes, default=0) * (len(sizes) // 2)
    if line.op == "reduce-scatter":
        return sum(sizes) * (_group(line.text) or 1)
    return sum(sizes)


def _share(kind: str, group: int | None) -> float:
    """What a ring sends from each device, for each byte of the whole array."""
    if kind == "collective-permute":
        return 1.0
    part = 1.0 if group is None else (group - 1) / group
    return 2 * part if kind == "all-reduce" else part


def _group(line: str) -> int | None:
    """Devices that take part together; None where the text does not say."""
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
