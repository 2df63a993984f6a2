"""How long a training step takes, against what the machine could do at best."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Timing", "interleaved", "matmul_peak", "random_batch"]

PEAK_SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}  # of the square matrices that measure the peak


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of the rounds of one contender.

    Attributes:
      seconds: in the order in which they were run.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, over the median."""
        low, high = np.percentile(self.seconds, (25, 75))
        return float(high - low) / 2 / self.median


def interleaved(contenders: Mapping[str, Callable[[], float]], *, rounds: int, warmup: int = 2) -> dict[str, Timing]:
    """Times each contender once a round, so that what disturbs the machine disturbs all alike.

    Args:
      contenders: by name: a function that takes one step, waits for it, and returns its seconds.
      rounds: that count.
      warmup: rounds before those, which do not.

    Raises:
      ValueError: no round.
    """
    if rounds < 1:
        raise ValueError(f"a measurement takes at least one round, not {rounds}")
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(warmup + rounds):
        for name, step in contenders.items():
            seconds = step()
            if i >= warmup:
                taken[name].append(seconds)
    return {name: Timing(tuple(seconds)) for name, seconds in taken.items()}


def matmul_peak(dtype: Any) -> Callable[[], float]:
    """A contender: the seconds that 10¹² FLOPs of large square matrix products in `dtype` take here.

    The product is a chain of four, each feeding the next, as a step's are. `1e12 / seconds` is the
    rate a step is held against.
    """
    side = PEAK_SIDE.get(jax.default_backend(), PEAK_SIDE["gpu"])
    a = jax.random.normal(jax.random.key(0), (side, side), jnp.float32).astype(dtype) / np.sqrt(side).astype(dtype)

    @jax.jit
    def chain(a: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 4, lambda _, x: x @ a, a)

    flops = 4 * 2 * side**3

    def run() -> float:
        began = time.perf_counter()
        chain(a).block_until_ready()
        return (time.perf_counter() - began) * 1e12 / flops

    return run


def random_batch(spec: Mapping[str, jax.ShapeDtypeStruct], seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of the given shapes: random pixels and seeds, labels of zero, every row valid."""
    rng = np.random.default_rng(seed)

    def fill(name: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if name == "valid":
            return np.ones(leaf.shape, bool)
        if name == "index":
            return np.arange(leaf.shape[0], dtype=leaf.dtype)
        if name in ("video", "seed"):
            top = np.iinfo(leaf.dtype).max
            return rng.integers(0, top, leaf.shape, leaf.dtype, endpoint=True)
        return np.zeros(leaf.shape, leaf.dtype)

    return {name: fill(name, leaf) for name, leaf in spec.items()}
