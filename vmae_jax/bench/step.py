"""Timing of a training step, compared with the peak of the machine."""

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
      seconds: in the order of the rounds.
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
        """Half the interquartile range, over the median."""
        low, high = np.percentile(self.seconds, (25, 75))
        return float(high - low) / 2 / self.median


def interleaved(contenders: Mapping[str, Callable[[], float]], *, rounds: int, warmup: int = 2) -> dict[str, Timing]:
    """Time each contender once per round, so that disturbances of the machine affect all alike.

    Args:
      contenders: by name, functions that take one step, wait for it, and return its seconds.
      rounds: that are measured.
      warmup: rounds before them, which are not.

    Raises:
      ValueError: if there is no round.
    """
    if rounds < 1:
        raise ValueError(f"a measurement takes at least one round, got {rounds}")
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(warmup + rounds):
        for name, step in contenders.items():
            seconds = step()
            if i >= warmup:
                taken[name].append(seconds)
    return {name: Timing(tuple(seconds)) for name, seconds in taken.items()}


def matmul_peak(dtype: Any) -> Callable[[], float]:
    """Return a contender: the seconds of 10¹² FLOPs of large square matrix products in `dtype`.

    The products are a chain of four, each on the result of the one before, as in a step. The rate of a step is
    compared with `1e12 / seconds`.
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
    """Return a batch of the given shapes: random pixels, samples and seeds, class numbers of zero, every row valid."""
    rng = np.random.default_rng(seed)

    def fill(name: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.dtype == bool:
            return np.ones(leaf.shape, bool)
        if name == "index":
            return np.arange(leaf.shape[0], dtype=leaf.dtype)
        if np.issubdtype(leaf.dtype, np.unsignedinteger) or leaf.dtype == np.int16:
            ends = np.iinfo(leaf.dtype)
            return rng.integers(ends.min, ends.max, leaf.shape, leaf.dtype, endpoint=True)
        if np.issubdtype(leaf.dtype, np.floating):
            return rng.random(leaf.shape, np.float32).astype(leaf.dtype)
        return np.zeros(leaf.shape, leaf.dtype)

    return {name: fill(name, leaf) for name, leaf in spec.items()}
