"""How long the compiler's own order of operations takes at the maker's peaks: what waits for memory and for links.

Three resources work beside each other: the core, its memory, the links. An operation keeps the core busy for as long
as its products need and takes its turn at the memory; it ends when both are done. Copies, and collectives that the
program starts in one place and awaits in another, or spreads over several operations, only take their turns, until
something waits for them. A collective that is one operation keeps the core waiting. The body of a loop is followed
once, and iterations do not overlap.
"""

import collections
import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

from vmae_jax.plan import hlo
from vmae_jax.plan.products import product
from vmae_jax.plan.program import Computation, Instruction, Program
from vmae_jax.plan.topology import Chip
from vmae_jax.plan.work import moved

__all__ = ["Schedule", "schedule"]

_Sent = tuple[float, str | None]  # seconds; the chain of which it is a part, where the collective is spread


class Schedule(NamedTuple):
    """A lower bound of a step's time that keeps the compiler's order; like all bounds here, uncalibrated.

    Attributes:
      seconds: of the whole step.
      links: of all that is sent between chips, by itself.
      exposed: of `seconds`, those in which the core waits for links.
      beside: of `links`, those of collectives that the program lets run beside other operations.
    """

    seconds: float = 0.0
    links: float = 0.0
    exposed: float = 0.0
    beside: float = 0.0

    def times(self, count: int) -> "Schedule":
        """Return the schedule of so many repetitions."""
        return Schedule(*(count * value for value in self))


def schedule(program: Program, *, chip: Chip, kernels: float = 0.0) -> Schedule:
    """Follow a compiled program in its order.

    Args:
      chip: whose peaks count.
      kernels: operations of one device that the program does not show, inside kernels; every call has an equal share.
    """
    calls = sum(
        program.times.get(name, 0) * sum(map(_is_kernel, here.values())) for name, here in program.computations.items()
    )
    return _Followed(program, chip, kernels / calls if calls else 0.0).computation(program.entry)


def _begins(line: Instruction) -> bool:
    """Whether something is begun here and awaited elsewhere."""
    return line.op.endswith("-start") or line.op == "async-update"


def _is_kernel(line: Instruction) -> bool:
    return 'custom_call_target="tpu_custom_call"' in line.text


@dataclasses.dataclass
class _Clock:
    """When each resource is free, and what the core has waited for the links."""

    core: float = 0.0
    memory: float = 0.0
    links: float = 0.0
    waited: float = 0.0

    def wait_for_links(self, until: float) -> None:
        self.waited += max(0.0, until - self.core)
        self.core = max(self.core, until)


class _Followed:
    """The computations of a program, each followed once."""

    def __init__(self, program: Program, chip: Chip, kernel: float) -> None:
        self.program, self.chip, self.kernel = program, chip, kernel
        self.parts = collections.Counter(
            part for here in program.computations.values() for line in here.values() if (part := hlo.chain(line))
        )
        self.left: dict[str, int] = {}  # parts of the spread collectives that have begun
        self.computation = functools.cache(self._computation)
        self.products = functools.cache(self._products)
        self.sent = functools.cache(self._sent)

    def _computation(self, name: str) -> Schedule:
        here = self.program.computations[name]
        clock, total, ends = _Clock(), Schedule(), dict[str, float]()
        for line in here.values():
            total = _sum(total, self._step(line, name, clock, ends))
        return total._replace(seconds=max(clock.core, clock.memory, clock.links), exposed=total.exposed + clock.waited)

    def _step(self, line: Instruction, name: str, clock: _Clock, ends: dict[str, float]) -> Schedule:
        """Let one operation pass; return what is inside it, where it is a loop or a call, and what it sends.

        Args:
          line: the operation.
          name: of its computation.
          clock: moved on.
          ends: when what has begun is done, by name.
        """
        here = self.program.computations[name]
        if line.op in ("while", "call", "conditional"):
            inside = self._inside(line, name)
            clock.core = max(clock.core, clock.memory) + inside.seconds
            return inside
        if line.op.endswith("-done"):
            self._await(line, here, clock, ends)
            return Schedule()
        sent = self._sends(line, here)
        if any(part is None for _, part in sent):
            return self._send(line, sum(seconds for seconds, _ in sent), clock, ends)
        spread = {part: seconds for seconds, part in sent if part is not None}
        begun = self._begin_parts(spread, clock, ends)
        self._work(line, here, clock, ends)
        for part in spread:
            if not self.left[part]:
                clock.wait_for_links(ends[part])
        return Schedule(links=begun, beside=begun)

    def _work(self, line: Instruction, here: Computation, clock: _Clock, ends: dict[str, float]) -> None:
        memory = moved(line, here, self.program) / self.chip.hbm_bandwidth
        clock.memory = max(clock.memory, clock.core) + memory if memory else clock.memory
        if _begins(line):
            ends[line.name] = clock.memory
        else:
            clock.core += self._arithmetic(line, here) / self.chip.flops
            clock.core = max(clock.core, clock.memory) if memory else clock.core

    def _begin_parts(self, spread: Mapping[str, float], clock: _Clock, ends: dict[str, float]) -> float:
        """Count the parts of spread collectives in an operation; return the seconds of those that begin there."""
        total = 0.0
        for part, seconds in spread.items():
            if part not in self.left:
                clock.links = ends[part] = max(clock.links, clock.core) + seconds
                total += seconds
            self.left[part] = self.left.get(part, self.parts[part]) - 1
        return total

    def _send(self, line: Instruction, seconds: float, clock: _Clock, ends: dict[str, float]) -> Schedule:
        clock.links = max(clock.links, clock.core) + seconds
        if _begins(line):
            ends[line.name] = clock.links
            return Schedule(links=seconds, beside=seconds)
        clock.wait_for_links(clock.links)
        return Schedule(links=seconds)

    def _await(self, line: Instruction, here: Computation, clock: _Clock, ends: dict[str, float]) -> None:
        begun = next((name for name in line.operands if name in ends), None)
        if begun is None:
            return
        if self._sends(here[begun], here):
            clock.wait_for_links(ends[begun])
        else:
            clock.core = max(clock.core, ends[begun])

    def _inside(self, line: Instruction, name: str) -> Schedule:
        if line.op == "while":
            body, times = line.attribute("body") or "", self.program.times
            return self.computation(body).times(max(1, times.get(body, 0) // max(1, times.get(name, 1))))
        found = [self.computation(name) for _, name in line.called if name in self.program.computations]
        return max(found, default=Schedule())

    def _sends(self, line: Instruction, here: Computation) -> list[_Sent]:
        """Return what an operation sends; where it is begun without operands, its update sends."""
        if line.op == "async-start" and not line.operands:
            return []
        own = self._collective(line, here)
        if line.op == "async-update":
            start = here.get(line.operands[0]) if line.operands else None
            line = start if start is not None and not start.operands else line
        inside = [name for _, name in line.called] if line.op in ("fusion", "async-start") else []
        return own + [one for name in inside for one in self.sent(name)]

    def _sent(self, name: str) -> list[_Sent]:
        here = self.program.computations.get(name, {})
        found = []
        for line in here.values():
            own = self._collective(line, here)
            found += own or [one for _, called in line.called for one in self.sent(called)]
        return found

    def _collective(self, line: Instruction, here: Computation) -> list[_Sent]:
        found = hlo.sent(line, here)
        return [(found[2] / self.chip.ici_bandwidth, hlo.chain(line))] if found else []

    def _arithmetic(self, line: Instruction, here: Computation) -> float:
        found = product(line, here, self.chip.unit)
        own = (found.padded if found else 0.0) + (self.kernel if _is_kernel(line) else 0.0)
        return own + sum(self.products(name) for _, name in line.called)

    def _products(self, name: str) -> float:
        here = self.program.computations.get(name, {})
        return sum(self._arithmetic(line, here) for line in here.values())


def _sum(total: Schedule, inside: Schedule) -> Schedule:
    """Add what is sent; the seconds are the clock's."""
    return Schedule(0.0, total.links + inside.links, total.exposed + inside.exposed, total.beside + inside.beside)
