"""Reads, in the text of a compiled program, what it sends between devices and how often.

An operation in the body of a loop counts as often as the loop runs. XLA writes the number beside a
loop, or (for TPUs) leaves a loop that counts from 0 up to a constant, which is read here; a loop
that is neither is counted once and reported, never guessed.
"""

import collections
import dataclasses
import math
import re

__all__ = ["Collectives", "Traffic", "collectives", "multiplicities"]

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "token": 0, "opaque": 0}
_HEAD = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s.*\{\s*$")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_OPERATION = re.compile(rf"=\s+(.*?)\s({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"\b(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_MANY = re.compile(r"\b(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Traffic:
    """One kind of collective, over a whole step.

    Attributes:
      count: how often it runs.
      bytes: of the whole arrays it works on, on one device, all times together.
      link_bytes: what a device must send at least, by a ring over the group.
    """

    count: int
    bytes: int
    link_bytes: int


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


def collectives(text: str) -> Collectives:
    """The collectives of a compiled program (`compiled.as_text()`)."""
    bodies, entry = _computations(text)
    times, unknown = multiplicities(bodies, entry)
    total: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    hidden = set()
    for name, lines in bodies.items():
        for line in lines:
            match = _OPERATION.search(line)
            if match is None or not times.get(name):
                continue
            shapes, kind, started = match.groups()
            size, group = _size(kind, shapes, bool(started), line), _group(line)
            if group == 1:
                continue  # among one device nothing is sent
            entry_ = total[kind]
            entry_[0] += times[name]
            entry_[1] += times[name] * size
            entry_[2] += round(times[name] * size * _share(kind, group))
            hidden |= unknown.get(name, set())
    return Collectives({kind: Traffic(*total[kind]) for kind in KINDS if kind in total}, len(hidden))


def multiplicities(bodies: dict[str, list[str]], entry: str) -> tuple[dict[str, int], dict[str, set[str]]]:
    """How often each computation runs, and inside which loops of unknown length.

    Args:
      bodies: computation -> its lines.
      entry: where the program begins.
    """
    times: dict[str, int] = collections.defaultdict(int)
    unknown: dict[str, set[str]] = collections.defaultdict(set)

    def visit(name: str, count: int, inside: frozenset[str]) -> None:
        times[name] += count
        unknown[name] |= inside
        for line in bodies.get(name, ()):
            for called, factor, loop in _calls(line, name, bodies):
                if called in bodies:
                    visit(called, count * factor, inside | {f"{name}/{called}"} if loop else inside)

    visit(entry, 1, frozenset())
    return dict(times), dict(unknown)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None or not line.startswith((" ", "\t")):
            head = _HEAD.match(line)
            if head and not line.startswith("HloModule"):
                current = head[2]
                bodies[current] = []
                entry = current if head[1] else entry
                continue
        if current is not None and "=" in line:
            bodies[current].append(line)
    return bodies, entry


def _calls(line: str, where: str, bodies: dict[str, list[str]]) -> list[tuple[str, int, bool]]:
    """(computation, how often, whether that is not known) of those that a line of `where` runs."""
    if "=%" not in line and "={" not in line:
        return []
    loop = " while(" in line
    found = []
    for role, name in _CALLED.findall(line):
        if role == "to_apply" and " call(" not in line:
            continue  # the addition of a reduction
        turns = _turns(line, where, bodies) if loop and role == "body" else 1
        found.append((name, turns or 1, turns is None))
    for names in _MANY.findall(line):
        found += [(name.strip().lstrip("%"), 1, False) for name in names.split(",") if name.strip()]
    return found


def _turns(line: str, where: str, bodies: dict[str, list[str]]) -> int | None:
    """How often a loop turns: the number beside it, or the constant it counts up to from 0."""
    if match := _TRIPS.search(line):
        return int(match[1])
    condition, operand = re.search(r"condition=%?([\w.\-]+)", line), re.search(r" while\(.*?%?([\w.\-]+)\)", line)
    if condition is None or operand is None:
        return None
    test, here = _definitions(bodies.get(condition[1], [])), _definitions(bodies[where])
    root = next((text for text in test.values() if text.startswith("ROOT ")), "")
    compared = re.search(r" compare\(([^)]*)\), direction=LT", root)
    if compared is None:
        return None
    counter, limit = (_name(part) for part in compared[1].split(","))
    index = re.search(r"get-tuple-element\(.*index=(\d+)", test.get(counter, ""))
    begin = re.search(r" tuple\((.*?)\)(?:,|$)", here.get(operand[1], ""))
    stop = _constant(limit, test)
    if index is None or begin is None or stop is None:
        return None
    parts = begin[1].split(",")
    return stop if _constant(_name(parts[int(index[1])]), here) == 0 else None


def _definitions(lines: list[str]) -> dict[str, str]:
    """Name -> its line, without the blanks before it."""
    return {_name(line.strip().removeprefix("ROOT ").split(" = ")[0]): line.strip() for line in lines}


def _name(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text).strip().split(" ")[-1].lstrip("%")


def _constant(name: str, definitions: dict[str, str]) -> int | None:
    """The whole number that a name stands for, through copies of it."""
    text = definitions.get(name, "")
    if match := re.search(r" constant\((-?\d+)\)", text):
        return int(match[1])
    copied = re.search(r" (?:copy|bitcast)\(([^)]*)\)", text)
    return _constant(_name(copied[1]), definitions) if copied else None


def _size(kind: str, shapes: str, started: bool, line: str) -> int:
    """Bytes of the whole array on one device: gathered, or before it is scattered."""
    sizes = [_bytes(kind_, dims) for kind_, dims in _SHAPE.findall(shapes)]
    if started and kind in ("all-gather", "collective-permute"):
        # (operands, results, …): the result is the larger, or as large.
        return max(sizes, default=0) if len(sizes) <= 4 else sum(sizes) - min(sizes, default=0) * (len(sizes) // 2)
    if kind == "reduce-scatter":
        return sum(sizes) * (_group(line) or 1)
    return sum(sizes)


def _bytes(kind: str, dims: str) -> int:
    count = math.prod(int(n) for n in dims.split(",") if n)
    if kind in _BYTES:
        return count * _BYTES[kind]
    bits = re.search(r"\d+", kind)
    return -(-count * int(bits[0]) // 8) if bits else 0


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
