"""A lower bound for the time of a step: arithmetic, memory or links."""

from typing import NamedTuple

from vmae_jax.plan.compile import Compiled
from vmae_jax.plan.topology import Chip

__all__ = ["Bound", "bound"]


class Bound(NamedTuple):
    """An uncalibrated lower bound: no program runs at these peaks, and none is faster.

    Attributes:
      seconds: of the whole step.
      by: "compute", "memory" or "interconnect".
      terms: seconds of each by itself.
      in_sequence: the sum over the network's parts of the longer of arithmetic and memory: parts run one after
        another, so a part's waiting for memory is not hidden by another's arithmetic.
    """

    seconds: float
    by: str
    terms: dict[str, float]
    in_sequence: float


def bound(compiled: Compiled, *, chip: Chip) -> Bound:
    """Return the bound of a compiled step.

    Compute: the products with whole tiles and full matrix units, at the peak. Memory: the bytes that operations
    read and write. Links: the bytes that rings send. The three may overlap, so the largest is the bound.

    Args:
      compiled: a step that fits.
      chip: whose peaks count.
    """
    if compiled.work is None or compiled.collectives is None:
        raise ValueError("a step that does not fit has no bound")
    terms = {
        "compute": (compiled.work.padded + compiled.kernels) / chip.flops,
        "memory": compiled.work.bytes / chip.hbm_bandwidth,
        "interconnect": compiled.collectives.link_bytes / chip.ici_bandwidth,
    }
    by = max(terms, key=lambda term: terms[term])
    parts = compiled.work.parts.values()
    in_sequence = sum(max(part.padded / chip.flops, part.bytes / chip.hbm_bandwidth) for part in parts)
    return Bound(terms[by], by, terms, in_sequence + compiled.kernels / chip.flops)
