"""The least time that a step can take, by the term that binds: arithmetic, memory, or links."""

from typing import NamedTuple

from vmae_jax.plan.compile import Compiled
from vmae_jax.plan.topology import Chip

__all__ = ["Bound", "bound"]


class Bound(NamedTuple):
    """An uncalibrated lower bound: no program runs at these peaks, and none is faster.

    Attributes:
      seconds: of the whole step.
      by: "compute", "memory" or "interconnect".
      terms: seconds of each, as if it were alone.
    """

    seconds: float
    by: str
    terms: dict[str, float]


def bound(compiled: Compiled, *, flops: float, chips: int, chip: Chip) -> Bound:
    """The bound of a compiled step.

    Memory: each byte of arguments and outputs is read or written once, each of the temporaries
    written and read once; weights that are read again for each micro-batch are not counted. Links:
    what rings send; sending and computing may overlap, so the largest term is the bound.

    Args:
      compiled: a step that fits.
      flops: that all chips execute in a step.
    """
    if None in (compiled.arguments, compiled.temporaries, compiled.outputs) or compiled.collectives is None:
        raise ValueError("a step that does not fit has no bound")
    moved = (compiled.arguments or 0) + (compiled.outputs or 0) + 2 * (compiled.temporaries or 0)
    terms = {
        "compute": flops / chips / chip.flops,
        "memory": moved / chip.hbm_bandwidth,
        "interconnect": compiled.collectives.link_bytes / chip.ici_bandwidth,
    }
    by = max(terms, key=lambda term: terms[term])
    return Bound(terms[by], by, terms)
