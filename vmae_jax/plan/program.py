"""A compiled program, parsed from XLA's text: its computations, their instructions, and how often each runs.

The body of a loop runs once per iteration. XLA annotates a loop with the number of iterations,
or (for TPUs) writes a loop that counts from 0 up to a constant, which is read here. Any other loop
is counted once and reported.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

__all__ = ["Array", "Instruction", "Program", "parse"]

_HEAD = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s.*\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_MANY = re.compile(r"\b(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NO_BITS = {"pred": 8, "token": 0, "opaque": 0}


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result.

    Attributes:
      kind: element type, such as "bf16".
      shape: its dimensions.
      layout: the text between the braces, such as "1,0:T(8,128)(2,1)S(1)", or "".
    """

    kind: str
    shape: tuple[int, ...]
    layout: str

    @property
    def bytes(self) -> int:
        """Bytes of the elements, without the padding of tiles."""
        bits = re.search(r"\d+", self.kind)
        each = _NO_BITS.get(self.kind, int(bits[0]) if bits else 0)
        return -(-math.prod(self.shape) * each // 8)

    @property
    def tiled(self) -> tuple[int, ...]:
        """The dimensions, padded to the whole tiles of the layout."""
        order, tiles = self.layout.partition(":")[::2]
        tile = re.match(r"T\(([\d,]+)\)", tiles)
        if tile is None or not re.fullmatch(r"[\d,]+", order):
            return self.shape
        sizes, axes = list(self.shape), [int(axis) for axis in order.split(",")]  # minor to major
        units = [int(n) for n in reversed(tile[1].split(","))]
        for axis, unit in zip(axes, units, strict=False):
            sizes[axis] = -(-sizes[axis] // unit) * unit
        return tuple(sizes)

    @property
    def padded_bytes(self) -> int:
        """Bytes in memory, in whole tiles."""
        return self.bytes * math.prod(self.tiled) // max(1, math.prod(self.shape))

    @property
    def on_chip(self) -> bool:
        """Whether it is in the chip's fast memory, not in HBM."""
        space = re.search(r"S\((\d+)\)", self.layout)
        return space is not None and space[1] != "0"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program.

    Attributes:
      name, op: of the instruction, such as "fusion.3" and "fusion".
      result: its type as printed.
      operands: names of its arguments.
      text: the whole line.
      root: whether its computation returns it.
    """

    name: str
    op: str
    result: str
    operands: tuple[str, ...]
    text: str
    root: bool

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of its result; one unless it is a tuple."""
        return tuple(
            Array(kind, tuple(int(n) for n in dims.split(",") if n), layout or "")
            for kind, dims, layout in _ARRAY.findall(self.result)
        )

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    @property
    def padded_bytes(self) -> int:
        """Bytes of its arrays in memory, in whole tiles."""
        return sum(array.padded_bytes for array in self.arrays)

    def attribute(self, name: str) -> str | None:
        """Return the value of `name=`: a name, or the text between braces."""
        found = re.search(rf"\b{name}=(?:\{{([^}}]*)\}}|%?([^,\s]+))", self.text)
        return None if found is None else found[1] if found[1] is not None else found[2]

    @property
    def called(self) -> list[tuple[str, str]]:
        """Yield (role, computation) of the computations that it calls."""
        found = _CALLED.findall(self.text)
        for names in _MANY.findall(self.text):
            found += [("calls", name.strip().lstrip("%")) for name in names.split(",") if name.strip()]
        # The addition of a reduction does not count as a computation.
        return [(role, name) for role, name in found if role != "to_apply" or self.op == "call"]


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """A parsed program.

    Attributes:
      computations: name -> its instructions by name, in order.
      entry: its first computation.
      times: executions of each computation.
      unknown: for each, the enclosing loops of unknown length, which count once.
      fused: computations inside one operation, whose arrays never reach memory.
    """

    computations: dict[str, Computation]
    entry: str
    times: dict[str, int]
    unknown: dict[str, frozenset[str]]
    fused: frozenset[str]


def parse(text: str) -> Program:
    """Parse a compiled program (`compiled.as_text()`)."""
    computations, entry = _computations(text)
    times: dict[str, int] = collections.defaultdict(int)
    unknown: dict[str, frozenset[str]] = collections.defaultdict(frozenset)
    fused: set[str] = set()

    def visit(name: str, count: int, inside: frozenset[str], within: bool) -> None:
        times[name] += count
        unknown[name] |= inside
        if within:
            fused.add(name)
        for line in computations[name].values():
            for role, called in line.called:
                if called not in computations:
                    continue
                turns = _turns(line, computations[name], computations) if line.op == "while" and role == "body" else 1
                loops = inside | {f"{name}/{called}"} if turns is None else inside
                visit(called, count * (turns or 1), loops, within or line.op not in ("while", "call", "conditional"))

    if entry:
        visit(entry, 1, frozenset(), False)
    return Program(computations, entry, dict(times), dict(unknown), frozenset(fused))


def _computations(text: str) -> tuple[dict[str, Computation], str]:
    found: dict[str, Computation] = {}
    entry, current = "", None
    for line in _whole_lines(text):
        if current is None or not line.startswith((" ", "\t")):
            head = _HEAD.match(line)
            if head and not line.startswith("HloModule"):
                current = found.setdefault(head[2], {})
                entry = head[2] if head[1] else entry
                continue
        if current is not None and (instruction := _instruction(line)):
            current[instruction.name] = instruction
    return found, entry


def _whole_lines(text: str) -> Iterator[str]:
    """Yield the lines of a program; an instruction whose attributes (of a kernel) contain line breaks is one line."""
    whole = ""
    for line in text.splitlines():
        if whole and not (_LINE.match(line) or _HEAD.match(line) or line.strip() in ("", "}")):
            whole += " " + line
            continue
        if whole:
            yield whole
        whole = line if _LINE.match(line) else ""
        if not whole:
            yield line
    yield whole


def _instruction(line: str) -> Instruction | None:
    match = _LINE.match(line)
    if match is None:
        return None
    root, name, rest = match.groups()
    result, rest = _balanced(rest) if rest.startswith("(") else _word(rest)
    op, _, rest = rest.strip().partition("(")
    inside, _ = _balanced("(" + rest)
    return Instruction(name, op.strip(), result, tuple(_OPERAND.findall(inside)), line.strip(), bool(root))


def _word(text: str) -> tuple[str, str]:
    """Split off a type, which contains no blank."""
    word, _, rest = text.partition(" ")
    return word, rest


def _balanced(text: str) -> tuple[str, str]:
    """Split off the text in the parentheses that `text` begins with."""
    depth = 0
    for at, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return text[: at + 1], text[at + 1 :]
    return text, ""


def _turns(loop: Instruction, here: Computation, computations: dict[str, Computation]) -> int | None:
    """Return the iterations of a loop: the annotated number, or the constant that it counts up to from 0."""
    if match := _TRIPS.search(loop.text):
        return int(match[1])
    test = computations.get(loop.attribute("condition") or "", {})
    root = next((line for line in test.values() if line.root), None)
    begin = here.get(loop.operands[0]) if loop.operands else None
    if root is None or begin is None or begin.op != "tuple" or root.op != "compare":
        return None
    if root.attribute("direction") != "LT" or len(root.operands) != 2:
        return None
    counter, stop = test.get(root.operands[0]), _constant(root.operands[1], test)
    if counter is None or counter.op != "get-tuple-element" or stop is None:
        return None
    index = counter.attribute("index")
    if index is None or int(index) >= len(begin.operands):
        return None
    return stop if _constant(begin.operands[int(index)], here) == 0 else None


def _constant(name: str, here: Computation) -> int | None:
    """Return the integer constant of a name, through copies of it."""
    line = here.get(name)
    if line is None:
        return None
    if line.op == "constant":
        match = re.search(r" constant\((-?\d+)\)", line.text)
        return int(match[1]) if match else None
    return _constant(line.operands[0], here) if line.op in ("copy", "bitcast") else None
