"""The names that modules give to their operations, and how reports find them again in a program.

    @nn.compact
    @tower("encoder")
    def __call__(self, cubes, …):
        with part("embed"): …

A tower is a network of the model (encoder, decoder, teacher), a part is a piece of any tower (mlp, scores). Both are
scopes of JAX, so they are in the traced program, in the compiled one and in a profile. `plan` and `bench` add up
operations by them.
"""

import re
from typing import Any

import jax

__all__ = ["names", "part", "tower"]

_TOWER = re.compile(r"tower=(\w+)")
_PART = re.compile(r"part=(\w+)")


def tower(name: str) -> Any:
    """Return a scope (or decorator) whose operations belong to a network; inside another, the outer one counts."""
    return _scope("tower", name)


def part(name: str) -> Any:
    """Return a scope (or decorator) whose operations are a part of a network; the innermost one counts."""
    return _scope("part", name)


def names(path: str) -> tuple[str | None, str | None]:
    """Return the tower and the part that a path of scopes names, None where it names none."""
    towers, parts = _TOWER.findall(path), _PART.findall(path)
    return (towers[0] if towers else None), (parts[-1] if parts else None)


def _scope(kind: str, name: str) -> Any:
    if not name.isidentifier():
        raise ValueError(f"the name of a {kind} is an identifier such as 'encoder', got {name!r}")
    return jax.named_scope(f"{kind}={name}")
