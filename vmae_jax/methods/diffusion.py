"""Gaussian diffusion: how much of a signal is left at each time, and sampling by a prediction of the clean signal."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

__all__ = ["Diffusion", "diffusion"]

LEAST = 1e-8  # of the share of the signal that is left
MOST_STEPS, MOST_EXPONENT = 100_000, 10.0


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """x_t = √share_t · x_0 + √(1 - share_t) · noise, at times from 0 (clean) to `steps`.

    Attributes:
      share: the signal's share of the variance at each time, float32 [steps + 1], which falls from 1.
    """

    share: np.ndarray = dataclasses.field(compare=False)

    @property
    def steps(self) -> int:
        """The last time, at which nearly nothing of the signal is left."""
        return len(self.share) - 1

    def times(self, keys: Key[Array, "b"]) -> Int[Array, "b"]:
        """Return one time of 1 … steps for each key, drawn uniformly."""
        return jax.vmap(lambda key: jax.random.randint(key, (), 1, self.steps + 1))(keys)

    def noised(
        self, clean: Float[Array, "b k p"], time: Int[Array, "b"], noise: Float[Array, "b k p"]
    ) -> Float[Array, "b k p"]:
        """Return the signal with noise, at each row's time."""
        share = jnp.asarray(self.share)[time][:, None, None]
        return jnp.sqrt(share) * clean + jnp.sqrt(1 - share) * noise

    def grid(self, count: int) -> np.ndarray:
        """Return `count` + 1 times from `steps` down to 0, evenly spaced, int32."""
        return np.round(np.linspace(self.steps, 0, count + 1)).astype(np.int32)

    def earlier(
        self,
        noisy: Float[Array, "b k p"],
        clean: Float[Array, "b k p"],
        time: Int[Array, ""],
        before: Int[Array, ""],
        noise: Float[Array, "b k p"],
    ) -> Float[Array, "b k p"]:
        """Return a draw of the signal at an earlier time, given the one at `time` and the clean signal."""
        table = jnp.asarray(self.share)
        now, then = table[time], table[before]
        ratio, left = now / then, jnp.maximum(1 - now, LEAST)
        mean = jnp.sqrt(then) * (1 - ratio) / left * clean + jnp.sqrt(ratio) * (1 - then) / left * noisy
        return mean + jnp.sqrt((1 - then) * (1 - ratio) / left) * noise

    def sample(
        self,
        clean: Callable[[Array, Array], Array],
        start: Float[Array, "b k p"],
        keys: Key[Array, "b"],
        count: int,
    ) -> Float[Array, "b k p"]:
        """Return a sample, by ancestral sampling over `count` times.

        Args:
          clean: (noisy signal [b k p], time) -> the prediction of the clean signal.
          start: standard normal values, the signal at the last time.
          keys: one key an example, for the noise of the steps.
          count: number of predictions.
        """
        grid = self.grid(count)

        def step(noisy: Array, times: tuple[Array, Array]) -> tuple[Array, None]:
            time, before = times
            of_time = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, time), start.shape[1:]))(keys)
            return self.earlier(noisy, clean(noisy, time), time, before, of_time), None

        return jax.lax.scan(step, start, (jnp.asarray(grid[:-1]), jnp.asarray(grid[1:])))[0]


def diffusion(steps: int, exponent: float, first: float = 1e-4, last: float = 0.02) -> Diffusion:
    """Return the diffusion whose noise rates are evenly spaced from `first` to `last`, each to the power `exponent`.

    Args:
      steps: number of times.
      exponent: below 1, noise grows faster.
      first, last: rates of the first and the last step, before the power.

    Raises:
      ValueError: if a number is out of range, or more than a thousandth of the signal is left at the end.
    """
    if not 2 <= steps <= MOST_STEPS or not 0 < exponent <= MOST_EXPONENT:
        raise ValueError(
            f"steps={steps}, exponent={exponent}: from 2 to {MOST_STEPS:,} steps, and an exponent above 0 and at most "
            f"{MOST_EXPONENT:g}"
        )
    rates = np.linspace(first, last, steps) ** exponent
    share = np.clip(np.concatenate([[1.0], np.cumprod(1 - rates)]), LEAST, 1.0)
    if share[-1] > 1e-3:
        raise ValueError(
            f"steps={steps}, exponent={exponent}: {share[-1]:.2g} of the signal is left at the end, and may be at most "
            "0.001; use more steps or a smaller exponent"
        )
    return Diffusion(share.astype(np.float32))
