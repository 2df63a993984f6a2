"""The part of the network that each operation of a compiled program belongs to."""

import collections
import re
from collections.abc import Mapping, Sequence

from vmae_jax import scopes
from vmae_jax.plan.program import Computation, Instruction

__all__ = ["parts"]

REST = "optimizer and rest"
FAR = 64  # operations between one without a name and its neighbour that has one
_SOURCE = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')


def parts(here: Computation) -> dict[str, str]:
    """Return the part of the network of every operation of a computation, such as "bwd decoder mlp".

    What the compiler adds (copies ahead of their use, casts that it moves) has no name of its own and counts for the
    operation that uses it, or else for the one that made its operand.
    """
    found = {name: part for name, line in here.items() if (part := _named(line)) is not None}
    for order in (_users(here), {name: line.operands for name, line in here.items()}):
        for name in here:
            if name not in found and (part := _nearest(name, order, found)) is not None:
                found[name] = part
    return {name: found.get(name, REST) for name in here}


def _users(here: Computation) -> dict[str, list[str]]:
    users: dict[str, list[str]] = collections.defaultdict(list)
    for name, line in here.items():
        for operand in line.operands:
            users[operand].append(name)
    return users


def _nearest(name: str, order: Mapping[str, Sequence[str]], parts: Mapping[str, str]) -> str | None:
    """Return the part of the first named operation on the way along `order`, breadth first."""
    seen, ahead = {name}, collections.deque([name])
    while ahead and len(seen) < FAR:
        for near in order.get(ahead.popleft(), ()):
            if near in parts:
                return parts[near]
            if near not in seen:
                seen.add(near)
                ahead.append(near)
    return None


def _named(line: Instruction) -> str | None:
    """Return the part that the name of an operation states, with "again" for recomputation; None without a name."""
    match = _SOURCE.search(line.text)
    source = match[1] if match else ""
    if "/" not in source:
        return None
    way = "bwd" if "transpose(" in source else "fwd"
    again = " again" if "rematted" in source else ""
    tower, inner = scopes.names(source)
    if tower is None:
        return f"{way} loss and inputs" if "jvp(" in source else REST
    if "dynamic_update" in source and way == "fwd":
        inner = "saved for the backward pass"
    return f"{way}{again} {tower} {inner or 'rest'}"
