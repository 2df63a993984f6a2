"""The most that a device could do: clips a second of a training step at its peaks, for every size.

    python -m benchmarks.roofline            # the tables of docs/performance.md; measures this machine's CPU (a minute)

An uncalibrated upper bound: the products alone, each array that they read or write moved once, everything
between them done on the way, and AdamW's own traffic. What binds is the slower of arithmetic and memory.
"""

import argparse
import math
import statistics
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.costs import SIZES, counted, total
from vmae_jax.bench.step import matmul_peak
from vmae_jax.plan import flops
from vmae_jax.plan.topology import CHIPS

ADAMW_PASSES = 7  # parameters and two moments read and written, the gradient read; each 4 bytes a parameter


class Device(NamedTuple):
    """What a device could do at best.

    Attributes:
      flops: a second; bandwidth: of its memory, bytes a second.
      dtype: of the products; clips: a step.
      fused: attention's weights never reach the memory.
    """

    name: str
    flops: float
    bandwidth: float
    dtype: str
    clips: int
    fused: bool = True

    @property
    def ridge(self) -> float:
        """Operations a byte above which arithmetic binds."""
        return self.flops / self.bandwidth


class Work(NamedTuple):
    """Of one clip in a training step.

    Attributes:
      flops: of the model.
      bytes: that have to be moved.
    """

    flops: float
    bytes: float


def devices() -> tuple[Device, ...]:
    """This machine's CPU as measured now, and accelerators by their makers' data sheets."""
    v5e, v5p = CHIPS["v5e"], CHIPS["v5p"]
    return (
        Device("this CPU, 4 clips", *cpu(), "float32", 4),
        # nvidia.com, H200 data sheet, SXM form: 4.8 TB/s.
        Device("H200, 32 clips", flops.PEAKS["NVIDIA H200"], 4.8e12, "bfloat16", 32),
        Device("v5e, 32 clips", v5e.flops, v5e.hbm_bandwidth, "bfloat16", 32),
        Device("v5p, 32 clips", v5p.flops, v5p.hbm_bandwidth, "bfloat16", 32),
        Device("v5p, 32 clips, attention unfused", v5p.flops, v5p.hbm_bandwidth, "bfloat16", 32, fused=False),
    )


def cpu(rounds: int = 7) -> tuple[float, float]:
    """FLOP/s of large float32 products, and bytes a second of a sum of two arrays that no cache holds: medians."""
    product = matmul_peak(jnp.float32)
    a, b = jnp.ones(2**26, jnp.float32), jnp.ones(2**26, jnp.float32)
    add = jax.jit(lambda a, b: a + 0.5 * b, donate_argnums=0)

    def moved() -> float:
        nonlocal a
        began = time.perf_counter()
        a = add(a, b).block_until_ready()
        return 3 * b.nbytes / (time.perf_counter() - began)

    product()
    moved()
    taken = [(1e12 / product(), moved()) for _ in range(rounds)]
    rates, bandwidths = zip(*taken, strict=True)
    return statistics.median(rates), statistics.median(bandwidths)


def work(size: str, device: Device) -> Work:
    """Of our form of dual masking: three products for each of the forward pass, over all clips of the step."""
    model, params, parts = counted(size, dual=True, published=False, clips=device.clips, dtype=device.dtype)
    moved = sum(_bytes(part, cost, model, device) for part, cost in parts.items())
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    bytes_moved = 3 * moved + 4 * ADAMW_PASSES * weights
    return Work(3 * total(parts).flops / device.clips, bytes_moved / device.clips)


def _bytes(part: str, cost: flops.Cost, model: Any, device: Device) -> float:
    """Of a part's products forward; fused attention moves queries, keys, values and outputs alone."""
    if not (device.fused and part.endswith("scores")):
        return cost.bytes
    network = model.encoder.blocks if part.startswith("encoder") else model.decoder["blocks"]
    width = model.encoder.width if part.startswith("encoder") else model.decoder["width"]
    # Two products of n x n x width for each block, a multiply and an add as two operations.
    tokens = math.sqrt(cost.flops / (4 * width * network["depth"] * device.clips))
    return 4 * device.clips * tokens * width * network["depth"] * jnp.dtype(device.dtype).itemsize


def bound(one: Work, device: Device) -> tuple[float, str]:
    """Clips a second at most, and what binds."""
    arithmetic, memory = one.flops / device.flops, one.bytes / device.bandwidth
    return 1 / max(arithmetic, memory), "arithmetic" if arithmetic >= memory else "memory"


def tables(found: tuple[Device, ...]) -> str:
    """Markdown: the devices, and each size on each of them."""
    lines = ["| device | TFLOP/s | GB/s | FLOPs a byte at which arithmetic begins to bind |", "|---|---|---|---|"]
    lines += [f"| {d.name} | {d.flops / 1e12:.3g} | {d.bandwidth / 1e9:.4g} | {d.ridge:.0f} |" for d in found]
    lines += ["", "| FLOPs a byte, clips/s at most, bound by | " + " | ".join(f"ViT-{s}" for s in SIZES) + " |"]
    lines += ["|---" * (len(SIZES) + 1) + "|"]
    for device in found:
        cells = []
        for size in SIZES:
            one = work(size, device)
            most, why = bound(one, device)
            cells.append(f"{one.flops / one.bytes:.0f}, {most:.3g}, {why}")
        lines.append(f"| {device.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measures and prints."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    jax.config.update("jax_platforms", "cpu")
    print(tables(devices()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
