"""An interpreter of pickles that can build plain values only.

A pickle is a program for a stack machine, and Python's own machine can import, call and modify
whatever the program names. This one has the opcodes of protocols 2 to 5 that hold data. A name in the
program is looked up in a table of the caller and nowhere else; what is "called" is a function of that
table, which checks its arguments. BUILD is accepted on the objects made here for this one file, and
ignored. So a file can neither run anything nor change an object that outlives the reading of it.

Sizes are bounded: by the number of opcodes, by the depth of the result, and by its size with
everything that is shared written out.
"""

import collections
import struct
from collections.abc import Callable, Mapping
from typing import Any

from vmae_jax.weights.formats.checks import shown

__all__ = ["MAX_BYTES", "Inert", "Maker", "RefusedError", "load"]

MAX_BYTES = 32 << 20  # of the program; a thousand tensors take about 200 KiB
MAX_STEPS = 1_000_000  # opcodes, and values of the result with everything shared written out
MAX_DEPTH = 64
MAX_LINE = 256
MAX_INTEGER = 16  # bytes


class RefusedError(ValueError):
    """A program that is damaged, or that does more than hold data."""


class Inert:
    """Stands for an object of a class that weights do not need."""


class Maker:
    """What a program may "call": `make` gets the tuple of arguments and checks it itself."""

    def __init__(self, make: Callable[[tuple[Any, ...]], Any]):
        self.make = make


def load(data: bytes, names: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any]) -> Any:
    """The value that a pickle describes.

    Args:
      data: the program.
      names: what `module.name` stands for: a `Maker`, or an opaque value for `persistent` and the makers.
      persistent: gives the value of a persistent id.

    Raises:
      RefusedError: if the program is damaged, names anything else, or is larger than a file of weights needs.
    """
    if len(data) > MAX_BYTES:
        raise RefusedError(f"its pickle has {len(data)} bytes; at most {MAX_BYTES} are read")
    value = _Machine(data, names, persistent).run()
    _check_size(value)
    return value


def _check_size(root: Any) -> None:
    """Raise RefusedError where a value is nested too deeply (or in itself), or large once written out."""
    stack, cost = [(root, 0)], 0
    while stack:
        value, depth = stack.pop()
        if isinstance(value, dict | list | tuple):
            if depth == MAX_DEPTH:
                raise RefusedError(f"its values are nested more than {MAX_DEPTH} deep")
            cost += len(value)
            items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            if cost <= MAX_STEPS:
                stack += [(item, depth + 1) for item in items]
        elif isinstance(value, str | bytes):
            cost += len(value) // 64
        if cost > MAX_STEPS:
            raise RefusedError("its values are too many once everything that is shared is written out")


class _Machine:
    """The stack machine: one method an opcode, named after it in `OPCODES`."""

    def __init__(self, data: bytes, names: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any]):
        self.data, self.position = data, 0
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MAX_STEPS):
            code = self.take(1)
            if code == b".":
                return self.pop()
            step = OPCODES.get(code)
            if step is None:
                raise RefusedError(f"refused: its pickle has the opcode {code!r}, which holds no data; nothing was run")
            step(self)
        raise RefusedError(f"its pickle has more than {MAX_STEPS} opcodes")

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise RefusedError("its pickle ends too early")
        piece, self.position = self.data[self.position : end], end
        return piece

    def number(self, format: str) -> Any:  # noqa: A002 - as struct calls it
        return struct.unpack(format, self.take(struct.calcsize(format)))[0]

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + MAX_LINE)
        if end < 0:
            raise RefusedError("its pickle has a name without an end")
        return self.text(end - self.position, self.take(end - self.position + 1)[:-1])

    def text(self, count: int, piece: bytes | None = None) -> str:
        try:
            return (self.take(count) if piece is None else piece).decode("utf-8")
        except UnicodeDecodeError:
            raise RefusedError("its pickle has text that is not UTF-8") from None

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise RefusedError("its pickle takes a value that is not there")
        return self.stack.pop()

    def pop_many(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(count)]))

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise RefusedError("its pickle takes a mark that is not there")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def integer(self) -> None:
        count = self.number("<B")
        if count > MAX_INTEGER:
            raise RefusedError(f"its pickle has a whole number of {count} bytes; at most {MAX_INTEGER} are read")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def protocol(self) -> None:
        number = self.number("<B")
        if not 2 <= number <= 5:
            raise RefusedError(f"its pickle has protocol {number}; 2 to 5 are read")

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise RefusedError("its pickle recalls a value that it never kept")
        self.push(self.memo[index])

    def put(self, index: int) -> None:
        value = self.pop()
        self.push(value)
        self.memo[index] = value

    def extend(self, items: list[Any]) -> None:
        target = self.pop()
        if type(target) is not list:
            raise RefusedError("its pickle appends to what is not a list")
        target.extend(items)
        self.push(target)

    def update(self, items: list[Any]) -> None:
        target = self.pop()
        if not isinstance(target, dict):
            raise RefusedError("its pickle sets items of what is not a dict")
        self.fill(target, items)
        self.push(target)

    def fill(self, target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
        if len(items) % 2:
            raise RefusedError("its pickle has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):  # others take long to hash, or overflow the stack
                raise RefusedError(f"a dict has the key {shown(key)}; text and whole numbers are read")
            target[key] = value
        return target

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise RefusedError("its pickle has a name that is not text")
        if (module, name) not in self.names:
            named = shown(f"{module}.{name}").strip("'")
            raise RefusedError(f"refused: it names {named}, which weights do not need; nothing was run")
        self.push(self.names[module, name])

    def call(self) -> None:
        maker, arguments = self.pop_many(2)
        if not isinstance(maker, Maker) or type(arguments) is not tuple:
            raise RefusedError("refused: its pickle calls what cannot be called; nothing was run")
        self.push(maker.make(arguments))

    def build(self) -> None:
        """Ignore the state that a program gives to an object made here; there is none of anything else."""
        target, _ = self.pop_many(2)
        if not isinstance(target, Inert | collections.OrderedDict):
            raise RefusedError("refused: its pickle sets the state of what it did not make; nothing was changed")
        self.push(target)


def _pushing(value: Callable[["_Machine"], Any]) -> Callable[[_Machine], None]:
    return lambda m: m.push(value(m))


OPCODES: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": _Machine.protocol,
    b"\x95": lambda m: m.take(8),  # FRAME: only a hint for readers of streams
    b"N": _pushing(lambda m: None),
    b"\x88": _pushing(lambda m: True),
    b"\x89": _pushing(lambda m: False),
    b"J": _pushing(lambda m: m.number("<i")),
    b"K": _pushing(lambda m: m.number("<B")),
    b"M": _pushing(lambda m: m.number("<H")),
    b"\x8a": _Machine.integer,
    b"G": _pushing(lambda m: m.number(">d")),
    b"X": _pushing(lambda m: m.text(m.number("<I"))),
    b"\x8c": _pushing(lambda m: m.text(m.number("<B"))),
    b"\x8d": _pushing(lambda m: m.text(m.number("<Q"))),
    b"T": _pushing(lambda m: m.text(m.number("<I"))),  # BINSTRING and SHORT_BINSTRING: Python 2's text
    b"U": _pushing(lambda m: m.text(m.number("<B"))),
    b"B": _pushing(lambda m: m.take(m.number("<I"))),
    b"C": _pushing(lambda m: m.take(m.number("<B"))),
    b"\x8e": _pushing(lambda m: m.take(m.number("<Q"))),
    b"]": _pushing(lambda m: []),
    b"}": _pushing(lambda m: {}),
    b")": _pushing(lambda m: ()),
    b"(": _Machine.mark,
    b"0": _Machine.pop,
    b"1": _Machine.pop_mark,
    b"t": _pushing(lambda m: tuple(m.pop_mark())),
    b"\x85": _pushing(lambda m: m.pop_many(1)),
    b"\x86": _pushing(lambda m: m.pop_many(2)),
    b"\x87": _pushing(lambda m: m.pop_many(3)),
    b"l": _pushing(lambda m: m.pop_mark()),
    b"d": _pushing(lambda m: m.fill({}, m.pop_mark())),
    b"a": lambda m: m.extend([m.pop()]),
    b"e": lambda m: m.extend(m.pop_mark()),
    b"s": lambda m: m.update(list(m.pop_many(2))),
    b"u": lambda m: m.update(m.pop_mark()),
    b"h": lambda m: m.get(m.number("<B")),
    b"j": lambda m: m.get(m.number("<I")),
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": lambda m: m.name(*m.pop_many(2)),
    b"R": _Machine.call,
    b"\x81": _Machine.call,  # NEWOBJ: the same table decides
    b"b": _Machine.build,
    b"Q": lambda m: m.push(m.persistent(m.pop())),
}
